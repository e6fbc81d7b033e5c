package caddymodule

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
)

// TestThrottledAddress checks that a throttled address gets 429 at each
// endpoint with a login, and that valid tokens and other addresses are not
// affected.
func TestThrottledAddress(t *testing.T) {
	s := newSite(t)
	s.globals = trustedProxies
	s.addSecrets(passwordOf("elsewhere"))
	lines := []string{users("alice", "bob"), "directory elsewhere", private("acme", "alice", "bob", "elsewhere:zoe")}
	s.load(lines...)
	token := s.get(auth, as("alice"), forwardedFor("192.0.2.1")).expect(t, http.StatusOK, "").tokens().Token
	wrong := func(name string, i int) requestOption {
		return func(r *http.Request) { r.SetBasicAuth(name, fmt.Sprint("wrong", i)) }
	}
	for i := range documentedAddressBurst {
		s.get([]string{auth, "/v2/"}[i%2], wrong(fmt.Sprint("zoe", i%3), i), forwardedFor("192.0.2.1")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	s.load(append(lines, "token {\n lifetime 1h\n}")...) // a reload does not reset the throttle
	elsewhereAsked.Store(0)
	form := form(loginForm("zoe", passwordOf("elsewhere")))
	for _, a := range []answer{
		s.get(auth, wrong("zoe", 0), forwardedFor("192.0.2.1")), s.get("/v2/", wrong("zoe", 0), forwardedFor("192.0.2.1")),
		s.get("/jwt/auth", form, forwardedFor("192.0.2.1")), s.get(auth, as("bob"), forwardedFor("192.0.2.1")),
	} {
		a.expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS").has(t, "Content-Type", "application/json").has(t, "WWW-Authenticate", "")
		if seconds, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || seconds < 1 || seconds > int(documentedAddressEvery/time.Second) {
			t.Errorf("got Retry-After %q, want 1 to %d", a.Header.Get("Retry-After"), int(documentedAddressEvery/time.Second))
		}
	}
	if n := elsewhereAsked.Load(); n != 0 {
		t.Errorf("got %d questions to the directory, want none", n)
	}
	s.get("/v2/", bearer(token), forwardedFor("192.0.2.1")).expect(t, http.StatusOK, "")
	s.get(auth, as("alice"), forwardedFor("192.0.2.1")).expect(t, http.StatusOK, "")
	s.get(auth, as("bob"), forwardedFor("192.0.2.2")).expect(t, http.StatusOK, "")
	for _, row := range []struct {
		how    requestOption
		from   string
		status int
		friend bool
	}{{form, "192.0.2.5", 200, false}, {form, "192.0.2.5", 200, true}, {wrong("zoe", 90), "192.0.2.2", 401, true}, {wrong("zoe", 91), "192.0.2.3", 401, false}} {
		if a := s.get("/jwt/auth", row.how, forwardedFor(row.from)); a.StatusCode != row.status || elsewhereFriendly.Load() != row.friend {
			t.Errorf("from %s: got %d, friendly %t; want %d, %t", row.from, a.StatusCode, elsewhereFriendly.Load(), row.status, row.friend)
		}
	}
	if !strings.Contains(s.logs(), `"event":"throttled"`) {
		t.Error("the audit log lacks the throttled logins")
	}
}

// TestThrottledAccount checks that unknown addresses are locked out of an
// account that is being guessed at, that its owner is not, and that clients
// cannot choose an address by a header.
func TestThrottledAccount(t *testing.T) {
	s := newSite(t)
	s.globals = trustedProxies
	lines := []string{users("alice", "bob"), private("acme", "alice", "bob")}
	s.load(lines...)
	s.get(auth, as("bob"), forwardedFor("192.0.2.2")).expect(t, http.StatusOK, "")
	guess := func(n int, name func(i int) string) map[int]int {
		status := map[int]int{}
		for i := range n {
			status[s.get(auth, basic(name(i), fmt.Sprint("guess", i)), forwardedFor(fmt.Sprint("198.51.100.", i))).StatusCode]++
		}
		return status
	}
	for _, name := range []string{"bob", "nobody"} {
		status := guess(documentedAccountBurst+10, func(int) string { return name })
		if status[401] != documentedAccountBurst || status[429] != 10 {
			t.Errorf("guesses at %s: got %v, want %d times 401 and 10 times 429", name, status, documentedAccountBurst)
		}
	}
	s.get(auth, basic("bob", "wrong"), forwardedFor("192.0.2.2")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.get(auth, as("bob"), forwardedFor("203.0.113.1")).expect(t, http.StatusOK, "")
	s.get(auth, as("alice"), forwardedFor("203.0.113.1")).expect(t, http.StatusOK, "")

	// Without a trusted proxy the header is ignored.
	s.globals = ""
	s.load(lines...)
	status := guess(2*documentedAddressBurst, func(i int) string { return fmt.Sprint("user", i) })
	if status[401] != documentedAddressBurst || status[429] != documentedAddressBurst {
		t.Errorf("guesses with forged addresses: got %v, want %d times 401 and as many times 429", status, documentedAddressBurst)
	}
}

// TestFullHashQueue checks that a login that finds the queue for hashes full
// gets 503 whether or not the account exists, and that logins without a hash
// succeed.
func TestFullHashQueue(t *testing.T) {
	s := newSite(t)
	s.globals = trustedProxies
	lines := []string{private("acme", "alice", "bob"), users("bob")}
	s.load(append(lines, users("alice"))...)
	const home, away = "192.0.2.1", "198.51.100.1"
	s.get(auth, as("alice"), forwardedFor(home)).expect(t, http.StatusOK, "")
	// A new password, about which nothing is remembered.
	next := rand.Text()
	s.load(append(lines, "user alice "+hash(next))...)
	s.addSecrets(next)
	login := func(name, password, address string, status int) {
		t.Helper()
		a := s.get("/jwt/auth", form(loginForm(name, password)), forwardedFor(address))
		if status != http.StatusServiceUnavailable {
			a.expect(t, status, map[int]string{401: "UNAUTHORIZED"}[status])
			return
		}
		a.expect(t, status, "UNAVAILABLE").has(t, "Retry-After", "10").has(t, "Content-Type", "application/json")
	}
	restore := setPasswordQueue(password.NewQueue(1, 0, password.MaxWaiting))
	login("bob", "wrong", away, 503)
	login("nobody", "wrong", away, 503)
	login("alice", next, away, 503)
	login("alice", next, home, 200) // needs a hash, and takes precedence over unknown addresses
	login("alice", next, away, 200) // no longer needs a hash
	restore()
	login("bob", "wrong", "198.51.100.2", 401)
	login("bob", passwordOf("bob"), "198.51.100.2", 200)
	if !strings.Contains(s.logs(), `"reason":"`+password.ErrBusy.Error()) {
		t.Error("the log lacks that the queue is full")
	}
}

// TestAbandonedLoginIsCounted checks that the login of a client that does not
// wait for the answer is checked and counted.
func TestAbandonedLoginIsCounted(t *testing.T) {
	s := start(t, users("alice", "bob"), private("acme", "alice", "bob"))
	hold := make(chan struct{})
	t.Cleanup(setPasswordQueue(password.NewQueue(1, password.MaxWaiting, password.MaxWaiting)))
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
		concurrently(documentedAddressBurst, func(i int) {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+auth, nil)
			if err != nil {
				t.Error(err)
				return
			}
			r.SetBasicAuth([]string{"alice", "bob"}[i%2], fmt.Sprint("abandoned", i))
			if response, err := client.Do(r); err == nil {
				_ = response.Body.Close()
				t.Errorf("got the answer %s to an abandoned login, want none", response.Status)
			}
		})
	}()
	eventually(t, "all wait", func() bool { return password.DefaultQueue.Waiting() == documentedAddressBurst })
	cancel()
	<-done
	eventually(t, "the handlers have ended", func() bool {
		return strings.Count(s.logs(), `"status":499`) == documentedAddressBurst
	})
	close(hold)
	eventually(t, "the guesses are checked", func() bool {
		return strings.Count(s.logs(), `"reason":"wrong password"`) == documentedAddressBurst
	})
	s.get("/jwt/auth", form(loginForm("alice", passwordOf("alice")))).expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
}
