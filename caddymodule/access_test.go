package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestBlocked: an account that the configuration blocks is refused at once,
// with its password and with a token of before, and learns no more than that
// of a wrong one.
func TestBlocked(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	lines := []string{users("alice", "bob"), private("acme", "alice", "bob"), hub(up)}
	s := start(t, lines...)
	path := manifestPath("acme", "alpine", "3.20")
	token := s.token("alice")
	s.get(path, bearer(token)).expect(t, http.StatusOK, "")
	s.load(append(lines, "blocked alice")...)
	s.get(path, bearer(token)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	blocked := s.get(auth, as("alice")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	wrong := s.get(auth, func(r *http.Request) { r.SetBasicAuth("bob", "wrong") }).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	if string(blocked.body) != string(wrong.body) {
		t.Errorf("%s and %s", blocked.body, wrong.body)
	}
	s.get(path, as("bob")).expect(t, http.StatusOK, "")
	if !strings.Contains(s.logs(), "the account is blocked") {
		t.Error("the log does not tell why")
	}
}

// TestDenialDetail: the rule that decided is for those who have a part in the
// group, and for admins.
func TestDenialDetail(t *testing.T) {
	s := start(t, users("alice", "bob", "carol"), private("acme", "alice"), "private_groups off", "admins carol")
	for name, rule := range map[string]string{"alice": `{"rule":"private groups are off"}`, "carol": `{"rule":"private groups are off"}`, "bob": "null"} {
		a := s.get(manifestPath("acme", "alpine", "3.20"), as(name)).expect(t, http.StatusForbidden, "DENIED")
		if !strings.Contains(string(a.body), `"detail":`+rule+`}`) {
			t.Errorf("%s is told %s", name, a.body)
		}
	}
}
