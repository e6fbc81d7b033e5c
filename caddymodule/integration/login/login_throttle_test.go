package login

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
)

// TestThrottledAddress checks that a throttled address gets 429 at each
// endpoint with a login, and that valid tokens and other addresses are not
// affected.
func TestThrottledAddress(t *testing.T) {
	s := sitetest.NewSite(t)
	s.Globals = sitetest.TrustedProxies
	s.AddSecrets(sitetest.PasswordOf("elsewhere"))
	lines := []string{sitetest.Users("alice", "bob"), "directory elsewhere", sitetest.Private("acme", "alice", "bob", "elsewhere:zoe")}
	s.Load(lines...)
	token := s.Get(sitetest.Auth, sitetest.As("alice"), sitetest.ForwardedFor("192.0.2.1")).Expect(t, http.StatusOK, "").Tokens().Token
	wrong := func(name string, i int) sitetest.RequestOption {
		return func(r *http.Request) { r.SetBasicAuth(name, fmt.Sprint("wrong", i)) }
	}
	for i := range sitetest.DocumentedAddressBurst {
		s.Get([]string{sitetest.Auth, "/v2/"}[i%2], wrong(fmt.Sprint("zoe", i%3), i), sitetest.ForwardedFor("192.0.2.1")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	s.Load(append(lines, "token {\n lifetime 1h\n}")...) // a reload does not reset the throttle
	sitetest.ElsewhereAsked.Store(0)
	form := sitetest.Form(sitetest.LoginForm("zoe", sitetest.PasswordOf("elsewhere")))
	for _, a := range []sitetest.Answer{
		s.Get(sitetest.Auth, wrong("zoe", 0), sitetest.ForwardedFor("192.0.2.1")), s.Get("/v2/", wrong("zoe", 0), sitetest.ForwardedFor("192.0.2.1")),
		s.Get("/jwt/auth", form, sitetest.ForwardedFor("192.0.2.1")), s.Get(sitetest.Auth, sitetest.As("bob"), sitetest.ForwardedFor("192.0.2.1")),
	} {
		a.Expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS").Has(t, "Content-Type", "application/json").Has(t, "WWW-Authenticate", "")
		if seconds, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || seconds < 1 || seconds > int(sitetest.DocumentedAddressEvery/time.Second) {
			t.Errorf("got Retry-After %q, want 1 to %d", a.Header.Get("Retry-After"), int(sitetest.DocumentedAddressEvery/time.Second))
		}
	}
	if n := sitetest.ElsewhereAsked.Load(); n != 0 {
		t.Errorf("got %d questions to the directory, want none", n)
	}
	s.Get("/v2/", sitetest.Bearer(token), sitetest.ForwardedFor("192.0.2.1")).Expect(t, http.StatusOK, "")
	s.Get(sitetest.Auth, sitetest.As("alice"), sitetest.ForwardedFor("192.0.2.1")).Expect(t, http.StatusOK, "")
	s.Get(sitetest.Auth, sitetest.As("bob"), sitetest.ForwardedFor("192.0.2.2")).Expect(t, http.StatusOK, "")
	for _, row := range []struct {
		how    sitetest.RequestOption
		from   string
		status int
		friend bool
	}{{form, "192.0.2.5", 200, false}, {form, "192.0.2.5", 200, true}, {wrong("zoe", 90), "192.0.2.2", 401, true}, {wrong("zoe", 91), "192.0.2.3", 401, false}} {
		if a := s.Get("/jwt/auth", row.how, sitetest.ForwardedFor(row.from)); a.StatusCode != row.status || sitetest.ElsewhereFriendly.Load() != row.friend {
			t.Errorf("from %s: got %d, friendly %t; want %d, %t", row.from, a.StatusCode, sitetest.ElsewhereFriendly.Load(), row.status, row.friend)
		}
	}
	if !strings.Contains(s.Logs(), `"event":"throttled"`) {
		t.Error("the audit log lacks the throttled logins")
	}
}

// TestThrottledAccount checks that unknown addresses are locked out of an
// account that is being guessed at, that its owner is not, and that clients
// cannot choose an address by a header.
func TestThrottledAccount(t *testing.T) {
	s := sitetest.NewSite(t)
	s.Globals = sitetest.TrustedProxies
	lines := []string{sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice", "bob")}
	s.Load(lines...)
	s.Get(sitetest.Auth, sitetest.As("bob"), sitetest.ForwardedFor("192.0.2.2")).Expect(t, http.StatusOK, "")
	guess := func(n int, name func(i int) string) map[int]int {
		status := map[int]int{}
		for i := range n {
			status[s.Get(sitetest.Auth, sitetest.Basic(name(i), fmt.Sprint("guess", i)), sitetest.ForwardedFor(fmt.Sprint("198.51.100.", i))).StatusCode]++
		}
		return status
	}
	for _, name := range []string{"bob", "nobody"} {
		status := guess(sitetest.DocumentedAccountBurst+10, func(int) string { return name })
		if status[401] != sitetest.DocumentedAccountBurst || status[429] != 10 {
			t.Errorf("guesses at %s: got %v, want %d times 401 and 10 times 429", name, status, sitetest.DocumentedAccountBurst)
		}
	}
	s.Get(sitetest.Auth, sitetest.Basic("bob", "wrong"), sitetest.ForwardedFor("192.0.2.2")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Get(sitetest.Auth, sitetest.As("bob"), sitetest.ForwardedFor("203.0.113.1")).Expect(t, http.StatusOK, "")
	s.Get(sitetest.Auth, sitetest.As("alice"), sitetest.ForwardedFor("203.0.113.1")).Expect(t, http.StatusOK, "")

	// Without a trusted proxy the header is ignored.
	s.Globals = ""
	s.Load(lines...)
	status := guess(2*sitetest.DocumentedAddressBurst, func(i int) string { return fmt.Sprint("user", i) })
	if status[401] != sitetest.DocumentedAddressBurst || status[429] != sitetest.DocumentedAddressBurst {
		t.Errorf("guesses with forged addresses: got %v, want %d times 401 and as many times 429", status, sitetest.DocumentedAddressBurst)
	}
}

// TestFullHashQueue checks that a login that finds the queue for hashes full
// gets 503 whether or not the account exists, and that logins without a hash
// succeed.
func TestFullHashQueue(t *testing.T) {
	s := sitetest.NewSite(t)
	s.Globals = sitetest.TrustedProxies
	lines := []string{sitetest.Private("acme", "alice", "bob"), sitetest.Users("bob")}
	s.Load(append(lines, sitetest.Users("alice"))...)
	const home, away = "192.0.2.1", "198.51.100.1"
	s.Get(sitetest.Auth, sitetest.As("alice"), sitetest.ForwardedFor(home)).Expect(t, http.StatusOK, "")
	// A new password, about which nothing is remembered.
	next := rand.Text()
	s.Load(append(lines, "user alice "+sitetest.Hash(next))...)
	s.AddSecrets(next)
	login := func(name, password, address string, status int) {
		t.Helper()
		a := s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm(name, password)), sitetest.ForwardedFor(address))
		if status != http.StatusServiceUnavailable {
			a.Expect(t, status, map[int]string{401: "UNAUTHORIZED"}[status])
			return
		}
		a.Expect(t, status, "UNAVAILABLE").Has(t, "Retry-After", "10").Has(t, "Content-Type", "application/json")
	}
	restore := sitetest.SetPasswordQueue(password.NewQueue(1, 0, password.MaxWaiting))
	login("bob", "wrong", away, 503)
	login("nobody", "wrong", away, 503)
	login("alice", next, away, 503)
	login("alice", next, home, 200) // needs a hash, and takes precedence over unknown addresses
	login("alice", next, away, 200) // no longer needs a hash
	restore()
	login("bob", "wrong", "198.51.100.2", 401)
	login("bob", sitetest.PasswordOf("bob"), "198.51.100.2", 200)
	if !strings.Contains(s.Logs(), `"reason":"`+password.ErrBusy.Error()) {
		t.Error("the log lacks that the queue is full")
	}
}

// TestAbandonedLoginIsCounted checks that the login of a client that does not
// wait for the answer is checked and counted.
func TestAbandonedLoginIsCounted(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice", "bob"))
	hold := make(chan struct{})
	t.Cleanup(sitetest.SetPasswordQueue(password.NewQueue(1, password.MaxWaiting, password.MaxWaiting)))
	leave, err := password.DefaultQueue.Enter(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-hold
		leave()
	}()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		sitetest.Concurrently(sitetest.DocumentedAddressBurst, func(i int) {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+sitetest.Auth, nil)
			if err != nil {
				t.Error(err)
				return
			}
			r.SetBasicAuth([]string{"alice", "bob"}[i%2], fmt.Sprint("abandoned", i))
			if response, err := sitetest.Client.Do(r); err == nil {
				_ = response.Body.Close()
				t.Errorf("got the answer %s to an abandoned login, want none", response.Status)
			}
		})
	}()
	sitetest.Eventually(t, "all wait", func() bool { return password.DefaultQueue.Waiting() == sitetest.DocumentedAddressBurst })
	cancel()
	<-done
	sitetest.Eventually(t, "the handlers have ended", func() bool {
		return strings.Count(s.Logs(), `"status":499`) == sitetest.DocumentedAddressBurst
	})
	close(hold)
	sitetest.Eventually(t, "the guesses are checked", func() bool {
		return strings.Count(s.Logs(), `"reason":"wrong password"`) == sitetest.DocumentedAddressBurst
	})
	s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("alice", sitetest.PasswordOf("alice")))).Expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
}
