package caddymodule

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"golang.org/x/crypto/bcrypt"
)

// counting counts comparisons.
type counting struct {
	caddyauth.Comparer
	n *atomic.Int32
}

func (c counting) Compare(hash, password []byte) (bool, error) {
	c.n.Add(1)
	return c.Comparer.Compare(hash, password)
}

// TestHashesPerLogin: a wrong password costs one hash whether the account
// exists or not, and none again within a minute; a right one costs one, and none from then on.
func TestHashesPerLogin(t *testing.T) {
	anns := rand.Text()
	a := newAccounts(nil, nil)
	a.add("static", hexStatic(t, &StaticUser{Name: "ann", Hash: hexOf(anns)}, &StaticUser{Name: "ben", Hash: hexOf("ben's")}))
	long := strings.Repeat("x", 73)
	for _, row := range []struct {
		name, password string
		err            error
		hashes         int32
	}{
		{"ann", "wrong", ErrWrongPassword, 1}, {"ann", "wrong", ErrWrongPassword, 0}, // that it is wrong is remembered
		{"nobody", "wrong", ErrUnknownAccount, 1}, {"nobody", "wrong", ErrUnknownAccount, 0}, {"", "", ErrUnknownAccount, 1},
		{"ann", long, ErrWrongPassword, 1}, {"nobody", long, ErrUnknownAccount, 1},
		{"ann", anns, nil, 1}, {"ann", anns, nil, 0}, {"ben", anns, ErrWrongPassword, 1}, {"ann", "wrong too", ErrWrongPassword, 1},
	} {
		hexCompared.Store(0)
		_, err := a.authenticate(t.Context(), Login{Name: row.name, Password: row.password})
		if !errors.Is(err, row.err) || hexCompared.Load() != row.hashes {
			t.Errorf("%s with %.10q: %v after %d hashes, instead of %v after %d", row.name, row.password, err, hexCompared.Load(), row.err, row.hashes)
		}
	}
}

// TestHashQueue: no more at once than there are slots, those from where
// somebody has logged in first, and neither many nor long to wait.
func TestHashQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newHashQueue(1, maxWaiting, maxWaiting)
		leave, err := q.enter(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := q.enter(t.Context(), false); !errors.Is(err, errBusy) || time.Since(began) != hashPatience {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		var order []string
		wait := func(name string, friendly bool) {
			go func() {
				leave, err := q.enter(t.Context(), friendly)
				order = append(order, name) // while the slot is held
				if err != nil {
					t.Error(err)
					return
				}
				leave()
			}()
			synctest.Wait()
		}
		for i := range maxWaiting - 1 {
			wait(fmt.Sprint("stranger ", i), false)
		}
		wait("friend", true)
		wait("last stranger", false)
		if _, err := q.enter(t.Context(), false); !errors.Is(err, errBusy) {
			t.Errorf("one too many: %v", err)
		}
		leave()
		synctest.Wait()
		// One stranger stood at the slot already.
		if len(order) != maxWaiting+1 || order[1] != "friend" {
			t.Errorf("order: %v", order)
		}
	})
}

// TestHashesGivenUp: a client that leaves the queue leaves nothing behind, and
// one that waits too long is told so rather than that its password is wrong.
func TestHashesGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := defaultQueue
		defaultQueue = newHashQueue(1, maxWaiting, maxWaiting)
		defer func() { defaultQueue = before }()
		leave, err := defaultQueue.enter(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		secret := rand.Text()
		made, err := bcrypt.GenerateFromPassword([]byte(secret), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		u := &StaticUser{Name: "ann", Hash: string(made)}
		if u.comparer, u.maxLen, err = comparer(u.Hash); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if ok, err := u.matches(ctx, Login{Password: secret}); ok || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%t, %v", ok, err)
		}
		synctest.Wait()
		if n := defaultQueue.waiting(); n != 0 {
			t.Errorf("%d still wait", n)
		}
		began := time.Now()
		if ok, err := u.matches(t.Context(), Login{Password: secret}); ok || !errors.Is(err, errBusy) || time.Since(began) != hashPatience {
			t.Errorf("%t, %v after %s", ok, err, time.Since(began))
		}
		leave()
		if ok, err := u.matches(t.Context(), Login{Password: secret}); !ok || err != nil {
			t.Errorf("%t, %v", ok, err)
		}
	})
}
