package static

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
)

// TestUserMatchesWaiting: a client that leaves the queue leaves nothing behind, and one that
// waits too long gets an error that does not say that its password is wrong.
func TestUserMatchesWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := password.DefaultQueue
		password.DefaultQueue = password.NewQueue(1, password.MaxWaiting, password.MaxWaiting)
		defer func() { password.DefaultQueue = before }()
		leave, err := password.DefaultQueue.Enter(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		secret := rand.Text()
		made, err := bcrypt.GenerateFromPassword([]byte(secret), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		u := &User{Name: "ann", Hash: string(made)}
		if u.comparer, u.maxLen, err = Comparer(u.Hash); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if ok, err := u.matches(ctx, directory.Login{Password: secret}); ok || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a client that has left: got %t, %v, want %v", ok, err, context.DeadlineExceeded)
		}
		synctest.Wait()
		if n := password.DefaultQueue.Waiting(); n != 0 {
			t.Errorf("got %d waiting logins, want none", n)
		}
		began := time.Now()
		if ok, err := u.matches(t.Context(), directory.Login{Password: secret}); ok || !errors.Is(err, password.ErrBusy) || time.Since(began) != password.Patience {
			t.Errorf("got %t, %v after %s, want %v after %s", ok, err, time.Since(began), password.ErrBusy, password.Patience)
		}
		leave()
		if ok, err := u.matches(t.Context(), directory.Login{Password: secret}); !ok || err != nil {
			t.Errorf("got %t, %v, want a match", ok, err)
		}
	})
}
