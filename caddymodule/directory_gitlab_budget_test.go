package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabapi"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
)

// newBudget is a budget with a clock that a test sets.
func newBudget(t *testing.T) (b *deployBudget, clock *time.Time) {
	t.Helper()
	b, err := newDeployBudget()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1e9, 0)
	b.now = func() time.Time { return now }
	return b, &now
}

// TestDeployBudget: how many unknown logins there are within the window, in all, of
// one address and of strangers, and when the next one may be shown.
func TestDeployBudget(t *testing.T) {
	b, now := newBudget(t)
	take := func(n int, subnet string, friendly bool) (taken int, wait time.Duration) {
		for range n {
			_, err := b.take(Login{Subnet: subnet, Friendly: friendly})
			if trouble := (*gitlabapi.Trouble)(nil); errors.As(err, &trouble) {
				wait = trouble.RetryAfter
				if trouble.Away {
					t.Error("GitLab would be left alone by all, want only this login refused")
				}
			} else if err == nil {
				taken++
			}
		}
		return taken, wait
	}
	expect := func(what string, n int, subnet string, friendly bool, wantTaken int, wantWait time.Duration) {
		t.Helper()
		if taken, wait := take(n, subnet, friendly); taken != wantTaken || wait != wantWait {
			t.Errorf("%s: got %d and a wait of %s, want %d and %s", what, taken, wait, wantTaken, wantWait)
		}
	}
	expect("one address", 9, "192.0.2.1", false, deployEach, deployWindow)
	*now = now.Add(time.Minute)
	for i := range 10 {
		take(1, fmt.Sprint("198.51.100.", i), false)
	}
	expect("one more stranger", 1, "203.0.113.1", false, 0, deployWindow-time.Minute)
	expect("a known place", 9, "192.0.2.9", true, deployLogins-deployStrangers, deployWindow)
	expect("another known place", 1, "192.0.2.10", true, 0, deployWindow-time.Minute)
	*now = now.Add(deployWindow - time.Minute)
	expect("the first address again", 9, "192.0.2.1", false, deployEach, deployWindow)
	right, err := b.take(Login{Subnet: "192.0.2.8", Friendly: true})
	if err == nil || right != nil {
		t.Errorf("got %v, want none left for anybody", err)
	}
	*now = now.Add(deployWindow)
	for range 3 * deployLogins { // right ones do not count
		if right, err = b.take(Login{Subnet: "192.0.2.8"}); err != nil {
			t.Fatal(err)
		}
		right()
	}
}

// TestDeployTokensGuessed: an attacker with a hundred addresses does not get this
// one banned at GitLab, keeps out no token that is known, and a new one at a place
// that is known for no longer than the window, however long it goes on.
func TestDeployTokensGuessed(t *testing.T) {
	g, _, _ := newGitLab(t)
	secret := func(name string) string { return "gldt-" + name + "-secret-that-must-not-leak" }
	scopes := []string{"read_registry", "read_virtual_registry"}
	for i, name := range []string{"known", "new"} {
		g.Groups[1].Deploy[int64(11+i)] = &gitlabtest.DeployToken{Name: name, Secret: secret(name), Scopes: scopes}
	}
	s := newSite(t)
	s.globals = trustFront
	s.secret("secret-that-must-not-leak")
	s.load(gitlabAt(t, g, "cache_for 1ns"))
	const ci, elsewhere = "192.0.2.1", "192.0.2.2"
	s.get(auth, basic("known", secret("known")), from(ci)).expect(t, http.StatusOK, "")

	guesses := 0
	attack := func() map[int]int {
		status := map[int]int{}
		for i := range 100 {
			guesses++
			a := s.get(auth, basic(fmt.Sprint("user", guesses), secret(fmt.Sprint("guess", guesses))), from(fmt.Sprint("198.51.100.", i)))
			if status[a.StatusCode]++; a.StatusCode == http.StatusServiceUnavailable {
				if seconds, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || seconds < 1 || seconds > 180 {
					t.Fatalf("got Retry-After %q, want up to 180", a.Header.Get("Retry-After"))
				}
			}
		}
		return status
	}
	before := g.Asked("/jwt/auth")
	if status := attack(); status[401] != 15 || status[503] != 85 {
		t.Errorf("got answers %v, want 15 times 401 and 85 times 503", status)
	}
	if asked := g.Asked("/jwt/auth") - before; asked > 20 {
		t.Errorf("GitLab was shown %d logins, want at most 20", asked)
	}
	for range 30 {
		s.get(auth, basic("known", secret("known")), from(ci)).expect(t, http.StatusOK, "")
		s.get(auth, basic("known", secret("known")), from(elsewhere)).expect(t, http.StatusOK, "")
	}
	s.get(auth, basic("new", secret("new")), from("203.0.113.1")).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	s.get(auth, basic("new", secret("new")), from(ci)).expect(t, http.StatusOK, "")
	s.get(auth, basic("new", secret("new")), from("203.0.113.1")).expect(t, http.StatusOK, "") // it is known by now
}

// TestDeployTokensAlike: guesses at a name that another directory knows take places
// as those at other names do, so that no answer tells which names there are.
func TestDeployTokensAlike(t *testing.T) {
	g, _, _ := newGitLab(t)
	s := newSite(t)
	s.globals = trustFront
	s.secret("secret-that-must-not-leak")
	s.load(users("carol"), gitlabAt(t, g, "cache_for 1ns"))
	for i, name := range []string{"carol", "nobody"} {
		for n := range 5 + 3 {
			status, code := http.StatusUnauthorized, "UNAUTHORIZED"
			if n >= 5 {
				status, code = http.StatusServiceUnavailable, "UNAVAILABLE"
			}
			secret := fmt.Sprint("gldt-", name, n, "-secret-that-must-not-leak")
			s.get(auth, basic(name, secret), from(fmt.Sprint("198.51.100.", i))).expect(t, status, code)
		}
	}
	if g.Saw("gldt-carol") {
		t.Error("GitLab was shown a password of an account of the configuration")
	}
}

// TestDeployTokenHints: that the group of a deploy token was not found does not keep
// a request from finding it that names the group.
func TestDeployTokenHints(t *testing.T) {
	g, _, _ := newGitLab(t)
	const secret = "gldt-ci-secret-that-must-not-leak"
	g.Groups[1].Deploy[11] = &gitlabtest.DeployToken{Name: "ci", Secret: secret, Scopes: []string{"read_registry", "read_virtual_registry"}}
	g.Fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/api/v4/groups" { // the list, which is too long to have it
			return false
		}
		_, _ = w.Write([]byte("[]"))
		return true
	}
	s := gitlabSite(t, g, gitlabAt(t, g, "cache_for 1h"))
	s.get(auth, basic("ci", secret)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.get(auth, basic("ci", secret)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.get(auth+"&scope=repository:acme"+infix+"alpine:pull", basic("ci", secret)).expect(t, http.StatusOK, "")
	s.get(auth, basic("ci", secret)).expect(t, http.StatusOK, "") // it is known by now
	if n := g.Asked("/api/v4/groups"); n < 1 {
		t.Error("the list was not asked for")
	}
}
