package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
)

// explain returns what the admin API explains about one pull, at the named
// sites or at all.
func (s *site) explain(site ...string) []admin.Explanation {
	s.t.Helper()
	path := adminExplainPull + "?as=alice&pull=acme/alpine"
	for _, name := range site {
		path += "&site=" + name
	}
	var all admin.ExplanationList
	if a := s.ask(http.MethodGet, path, ""); json.Unmarshal(a.body, &all) != nil || len(all.Answers) == 0 {
		s.t.Fatalf("got %d %s, want an answer", a.StatusCode, a.body)
	}
	return all.Answers
}

// TestSitesHaveOwnTokens checks that each of several sites has its own access
// tokens if it has its own name, and that the admin API distinguishes them.
func TestSitesHaveOwnTokens(t *testing.T) {
	s, other, second := twoSites(t)
	same := []string{users("alice"), private("acme", "alice")}

	// Two equal sites share their tokens and have one answer.
	s.after = second(same...)
	s.load(same...)
	secret, _ := s.createToken("--group", "acme")
	s.get("/v2/", basic("", secret)).expect(t, http.StatusOK, "")
	other.get("/v2/", basic("", secret)).expect(t, http.StatusOK, "")
	if all := s.explain(); len(all) != 1 || fmt.Sprint(all[0].Sites) != "[ ]" {
		t.Errorf("got %+v, want one answer for both sites", all)
	}

	// Two different sites need names. Until then neither accepts a token.
	different := []string{users("alice", "bob"), private("acme", "bob")}
	s.after = second(different...)
	s.load(same...)
	for _, here := range []*site{s, other} {
		here.get("/v2/", basic("", secret)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		here.get("/v2/", as("alice")).expect(t, http.StatusOK, "")
	}
	if out, err := s.command("token", "create", "--group", "acme"); err == nil || !strings.Contains(err.Error(), "give each site its own name") {
		t.Errorf("got error %v and %s, want an error about names", err, out)
	}
	if !strings.Contains(s.logs(), "access tokens are off") {
		t.Error("the log lacks \"access tokens are off\"")
	}
	if all := s.explain(); len(all) != 2 || all[0].Allowed == all[1].Allowed {
		t.Errorf("got %+v, want two different answers", all)
	}

	s.after = second(append(different, "name two")...)
	s.load(append(same, "name one")...)
	if out, err := s.command("token", "create", "--group", "acme"); err == nil || !strings.Contains(err.Error(), "several sites") {
		t.Errorf("got error %v and %s, want an error about several sites", err, out)
	}
	one, _ := s.createToken("--group", "acme", "--site", "one")
	two, _ := s.createToken("--account", "bob", "--site", "two")
	s.get("/v2/", basic("", one)).expect(t, http.StatusOK, "")
	s.get("/v2/", basic("", two)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.get("/v2/", basic("", secret)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED") // of the site without a name
	other.get("/v2/", basic("", one)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	other.get("/v2/", basic("", two)).expect(t, http.StatusOK, "")
	if all := s.explain("two"); len(all) != 1 || all[0].Allowed || fmt.Sprint(all[0].Sites) != "[two]" {
		t.Errorf("got %+v, want a denial at the site two", all)
	}
	if out := s.mustCommand("token", "list", "--site", "two"); !strings.Contains(out, "bob at two") || strings.Count(out, "\n") != 2 {
		t.Errorf("got %s, want the only token of the site two", out)
	}
}

// TestSitesReload checks that a configuration that is refused leaves the
// running one in place, and that a valid one replaces it.
func TestSitesReload(t *testing.T) {
	s, _, second := twoSites(t)
	same := []string{users("alice"), private("acme", "alice")}
	s.after = second(users("bob"), private("acme", "bob"), "name two")
	s.load(append(same, "name one")...)
	_, id := s.createToken("--account", "bob", "--site", "two")
	s.after = ""
	for range 2 {
		if err := s.tryLoad(users("alice"), private("acme", "alice"), "upstream docker.io\n nonsense"); err == nil {
			t.Error("got no error for an unknown line, want one")
		}
		if err := s.tryLoad(users("alice"), private("acme", "alice"), "upstream docker.io {\n realm_hosts https://x/\n}"); err == nil {
			t.Error("got no error for an invalid realm host, want one")
		}
		if all := s.explain(); len(all) != 2 {
			t.Errorf("got %+v, want answers of two sites", all)
		}
	}
	s.mustCommand("token", "revoke", id)
	s.load(append(same, "name one")...)
	if all := s.explain(); len(all) != 1 || fmt.Sprint(all[0].Sites) != "[one]" {
		t.Errorf("got %+v, want the answer of the site one", all)
	}
}
