package credential

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

// looks is a source of the logins a, b, c and so on.
type looks struct {
	*renewed
	t *testing.T

	count    int
	life     time.Duration // 0: not known
	duration time.Duration // of a look
	fail     error
}

func newLooks(t *testing.T) *looks {
	l := &looks{t: t}
	l.renewed = newRenewed(func(ctx context.Context) (found, error) {
		l.count++
		time.Sleep(l.duration)
		if l.fail != nil {
			return found{}, l.fail
		}
		f := found{login: namedLogin(string(rune('a' + l.count - 1)))}
		if l.life > 0 {
			f.expires, f.renewAt = time.Now().Add(l.life), time.Now().Add(l.life*4/5)
		}
		return f, ctx.Err()
	})
	return l
}

func namedLogin(name string) auth.Login {
	return auth.Login{Username: name, Password: secretText}
}

// want checks the login after a refusal, unless refused is "", and the number of
// looks so far. The empty name stands for an error.
func (l *looks) want(refused, name string, count int) {
	l.t.Helper()
	var not *auth.Login
	if refused != "" {
		login := namedLogin(refused)
		not = &login
	}
	login, err := l.login(l.t.Context(), not)
	if (err != nil) != (name == "") || login.Username != name || l.count != count {
		l.t.Errorf("got login %q, error %v after %d looks, want %q after %d", login.Username, err, l.count, name, count)
	}
}

// TestRenewedRefused checks that a refused login is looked for again, at most once
// in ten seconds.
func TestRenewedRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLooks(t)
		l.want("", "a", 1)
		l.want("", "a", 1)
		l.want("a", "a", 1) // too soon
		time.Sleep(lookPause)
		l.want("", "a", 1)
		l.want("a", "b", 2)
		l.want("a", "b", 2) // refused before it was replaced
		l.want("b", "b", 2)
		time.Sleep(24 * time.Hour)
		l.want("", "b", 2)
		l.fail = errors.New("locked")
		l.want("b", "", 3)
		l.want("b", "", 3)
		l.want("", "b", 3) // another repository may still accept it
		l.fail = nil
		time.Sleep(lookPause)
		l.want("b", "d", 4)
	})
}

// TestRenewedExpires checks that a login is renewed before it expires, used until
// then if it cannot be renewed, and not used after that.
func TestRenewedExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLooks(t)
		l.life = 100 * time.Second
		l.want("", "a", 1)
		time.Sleep(80*time.Second - time.Nanosecond)
		l.want("", "a", 1)
		time.Sleep(time.Nanosecond)
		l.want("", "b", 2)
		time.Sleep(80 * time.Second)
		l.fail = errors.New("away")
		l.want("", "b", 3)
		l.want("", "b", 3)
		time.Sleep(10 * time.Second)
		l.want("", "b", 4)
		time.Sleep(10 * time.Second)
		l.want("", "", 5)
		l.want("", "", 5)
		time.Sleep(10 * time.Second)
		l.fail = nil
		l.life = time.Second
		l.want("", "f", 6)
		time.Sleep(time.Second)
		l.want("", "", 6) // expired, and too soon
	})
}

// TestRenewedFailure checks that a failure is remembered for ten seconds, and that an
// incomplete login is a failure.
func TestRenewedFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLooks(t)
		l.fail = errors.New("away")
		l.want("", "", 1)
		l.want("", "", 1)
		l.fail = nil
		time.Sleep(lookPause)
		l.want("", "b", 2)

		incomplete := newRenewed(func(context.Context) (found, error) { return found{login: auth.Login{Username: "x"}}, nil })
		if _, err := incomplete.login(t.Context(), nil); err == nil {
			t.Error("got no error for a login without a password")
		}
	})
}

// TestRenewedSharesLook checks that concurrent callers share a look, which goes on
// when the first of them leaves, and ends after ten seconds.
func TestRenewedSharesLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLooks(t)
		l.duration = 5 * time.Second
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := l.login(ctx, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("got error %v, want that the caller has left", err)
			}
		})
		synctest.Wait()
		for range 8 {
			wg.Go(func() { l.want("", "a", 1) })
		}
		synctest.Wait()
		leave()
		wg.Wait()

		time.Sleep(lookPause)
		l.duration = lookTimeout + 1
		l.want("a", "", 2)
	})
}
