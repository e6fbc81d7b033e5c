package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
)

// explain returns what the admin API explains about one pull, at the named
// sites or at all.
func explain(s *sitetest.Site, site ...string) []admin.Explanation {
	s.T.Helper()
	path := sitetest.AdminExplainPull + "?as=alice&pull=acme/alpine"
	for _, name := range site {
		path += "&site=" + name
	}
	var all admin.ExplanationList
	if a := s.Ask(http.MethodGet, path, ""); json.Unmarshal(a.Data, &all) != nil || len(all.Answers) == 0 {
		s.T.Fatalf("got %d %s, want an answer", a.StatusCode, a.Data)
	}
	return all.Answers
}

// TestSitesHaveOwnTokens checks that each of several sites has its own access
// tokens if it has its own name, and that the admin API distinguishes them.
func TestSitesHaveOwnTokens(t *testing.T) {
	s, other, second := sitetest.TwoSites(t)
	same := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice")}

	// Two equal sites share their tokens and have one answer.
	s.After = second(same...)
	s.Load(same...)
	secret, _ := s.CreateToken("--group", "acme")
	s.Get("/v2/", sitetest.Basic("", secret)).Expect(t, http.StatusOK, "")
	other.Get("/v2/", sitetest.Basic("", secret)).Expect(t, http.StatusOK, "")
	if all := explain(s); len(all) != 1 || fmt.Sprint(all[0].Sites) != "[ ]" {
		t.Errorf("got %+v, want one answer for both sites", all)
	}

	// Two different sites need names. Until then neither accepts a token.
	different := []string{sitetest.Users("alice", "bob"), sitetest.Private("acme", "bob")}
	s.After = second(different...)
	s.Load(same...)
	for _, here := range []*sitetest.Site{s, other} {
		here.Get("/v2/", sitetest.Basic("", secret)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		here.Get("/v2/", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	}
	if out, err := s.Command("token", "create", "--group", "acme"); err == nil || !strings.Contains(err.Error(), "give each site its own name") {
		t.Errorf("got error %v and %s, want an error about names", err, out)
	}
	if !strings.Contains(s.Logs(), "access tokens are off") {
		t.Error("the log lacks \"access tokens are off\"")
	}
	if all := explain(s); len(all) != 2 || all[0].Allowed == all[1].Allowed {
		t.Errorf("got %+v, want two different answers", all)
	}

	s.After = second(append(different, "name two")...)
	s.Load(append(same, "name one")...)
	if out, err := s.Command("token", "create", "--group", "acme"); err == nil || !strings.Contains(err.Error(), "several sites") {
		t.Errorf("got error %v and %s, want an error about several sites", err, out)
	}
	one, _ := s.CreateToken("--group", "acme", "--site", "one")
	two, _ := s.CreateToken("--account", "bob", "--site", "two")
	s.Get("/v2/", sitetest.Basic("", one)).Expect(t, http.StatusOK, "")
	s.Get("/v2/", sitetest.Basic("", two)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Get("/v2/", sitetest.Basic("", secret)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED") // of the site without a name
	other.Get("/v2/", sitetest.Basic("", one)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	other.Get("/v2/", sitetest.Basic("", two)).Expect(t, http.StatusOK, "")
	if all := explain(s, "two"); len(all) != 1 || all[0].Allowed || fmt.Sprint(all[0].Sites) != "[two]" {
		t.Errorf("got %+v, want a denial at the site two", all)
	}
	if out := s.MustCommand("token", "list", "--site", "two"); !strings.Contains(out, "bob at two") || strings.Count(out, "\n") != 2 {
		t.Errorf("got %s, want the only token of the site two", out)
	}
}

// TestSitesReload checks that a configuration that is refused leaves the
// running one in place, and that a valid one replaces it.
func TestSitesReload(t *testing.T) {
	s, _, second := sitetest.TwoSites(t)
	same := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice")}
	s.After = second(sitetest.Users("bob"), sitetest.Private("acme", "bob"), "name two")
	s.Load(append(same, "name one")...)
	_, id := s.CreateToken("--account", "bob", "--site", "two")
	s.After = ""
	for range 2 {
		if err := s.TryLoad(sitetest.Users("alice"), sitetest.Private("acme", "alice"), "upstream docker.io\n nonsense"); err == nil {
			t.Error("got no error for an unknown line, want one")
		}
		if err := s.TryLoad(sitetest.Users("alice"), sitetest.Private("acme", "alice"), "upstream docker.io {\n realm_hosts https://x/\n}"); err == nil {
			t.Error("got no error for an invalid realm host, want one")
		}
		if all := explain(s); len(all) != 2 {
			t.Errorf("got %+v, want answers of two sites", all)
		}
	}
	s.MustCommand("token", "revoke", id)
	s.Load(append(same, "name one")...)
	if all := explain(s); len(all) != 1 || fmt.Sprint(all[0].Sites) != "[one]" {
		t.Errorf("got %+v, want the answer of the site one", all)
	}
}
