package login

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// logLines returns the given fields of the lines of a logger since the last call.
func logLines(s *sitetest.Site, seen *int, logger string, fields ...string) (lines []string) {
	s.T.Helper()
	all := strings.Split(strings.TrimSpace(s.Logs()), "\n")
	for _, text := range all[*seen:] {
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			s.T.Fatal(err)
		}
		if line["logger"] != logger {
			continue
		}
		var values []string
		for _, field := range fields {
			values = append(values, fmt.Sprint(line[field]))
		}
		lines = append(lines, strings.Join(values, "|"))
	}
	*seen = len(all)
	return lines
}

// TestAuditOfPulls checks the lines about manifests that are served: one for each to an
// account, and counts of those to anonymous clients, at the latest when the
// configuration ends.
func TestAuditOfPulls(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
	size := len(up.RawManifest("library/alpine", image.Manifest))
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Visible("open", directory.Public), sitetest.Hub(up)}
	s := sitetest.Start(t, lines...)
	token := s.Token("alice")
	seen := 0
	expect := func(when string, want ...string) {
		t.Helper()
		got := logLines(s, &seen, "http.handlers.dependency_proxy.audit.pull", "level", "event", "account", "directory", "client_ip", "group",
			"upstream", "repository", "tag", "digest", "result", "bytes", "pulls")
		if !slices.Equal(got, want) {
			t.Errorf("%s: got the lines %q, want %q", when, got, want)
		}
	}
	line := func(event, tag, result string, bytes int) string {
		return fmt.Sprintf("info|%s|alice|static|127.0.0.1|acme|docker.io|library/alpine|%s|%s|%s|%d|<nil>", event, tag, image.Manifest, result, bytes)
	}
	tag, digest := sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.ManifestPath("acme", "alpine", string(image.Manifest))
	s.Head(tag, sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	s.Get(digest, sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	s.Head(digest, sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	s.Get(tag, sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	s.Get(tag, sitetest.Bearer(token), sitetest.Header("If-None-Match", `"`+string(image.Manifest)+`"`)).Expect(t, http.StatusNotModified, "")
	s.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	s.Get(sitetest.ManifestPath("acme", "alpine", "missing"), sitetest.Bearer(token)).Expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	s.Get(tag).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	last := ""
	sitetest.Eventually(t, "the audit lines", func() bool { last = s.Logs(); return strings.Count(last, `"event":"pull"`) >= 3 })
	expect("alice", line("resolve", "3.20", "miss", 0), line("pull", "", "miss", size), line("pull", "3.20", "hit", size), line("pull", "3.20", "hit", 0))

	anonymous := s.Get("/jwt/auth?service=dependency_proxy").Expect(t, http.StatusOK, "").Tokens().Token
	for range 3 {
		s.Get(sitetest.ManifestPath("open", "alpine", "3.20"), sitetest.Bearer(anonymous)).Expect(t, http.StatusOK, "")
	}
	s.Head(sitetest.ManifestPath("open", "alpine", "3.20"), sitetest.Bearer(anonymous)).Expect(t, http.StatusOK, "")
	expect("before the minute is over")
	s.Load(append(lines, "private_groups off")...)
	expect("after a reload", fmt.Sprintf("info|anonymous pulls|<nil>|<nil>|<nil>|open|docker.io|library/alpine|<nil>|%s|<nil>|%d|3", image.Manifest, 3*size))
}

// TestPlaceholders checks what an access log can tell by placeholders.
func TestPlaceholders(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
	s := sitetest.NewSite(t)
	names := []string{"group", "image", "upstream", "cache_status", "account", "rule"}
	for _, name := range names {
		s.Before += fmt.Sprintf("log_append %s {http.dependency_proxy.%s}\n", name, name)
	}
	s.Load(sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice"), sitetest.Visible("open", directory.Public), sitetest.Hub(up))
	token, other := s.Token("alice"), s.Token("bob")
	seen := 0
	path := sitetest.ManifestPath("acme", "docker.io/library/alpine", "3.20")
	for _, row := range []struct {
		name string
		ask  func() sitetest.Answer
		want string
	}{
		{"a miss", func() sitetest.Answer { return s.Get(path, sitetest.Bearer(token)) }, "acme|docker.io/library/alpine|docker.io|miss|static:alice|member"},
		{"a hit", func() sitetest.Answer { return s.Head(path, sitetest.Bearer(token)) }, "acme|docker.io/library/alpine|docker.io|hit|static:alice|member"},
		{"a denial", func() sitetest.Answer { return s.Get(path, sitetest.Bearer(other)) }, "acme|docker.io/library/alpine|||static:bob|not a member"},
		{"no login", func() sitetest.Answer { return s.Get(path) }, "acme|docker.io/library/alpine||||"},
		{"a foreign login", func() sitetest.Answer {
			return s.Get(sitetest.ManifestPath("open", "alpine", "3.20"), sitetest.As("mallory"))
		}, "open|alpine|docker.io|miss||public group"},
		{"absence", func() sitetest.Answer {
			return s.Get(sitetest.ManifestPath("acme", "none", "1"), sitetest.Bearer(token))
		}, "acme|none|docker.io||static:alice|member"},
		{"a ping", func() sitetest.Answer { return s.Get("/v2/", sitetest.Bearer(token)) }, "||||static:alice|"},
		{"another handler", func() sitetest.Answer { return s.Get("/") }, "<nil>|<nil>|<nil>|<nil>|<nil>|<nil>"},
	} {
		before := strings.Count(s.Logs(), `"http.log.access`)
		row.ask()
		sitetest.Eventually(t, "the access log", func() bool { return strings.Count(s.Logs(), `"http.log.access`) > before })
		if got := logLines(s, &seen, "http.log.access", names...); len(got) == 0 || got[len(got)-1] != row.want {
			t.Errorf("%s: got the fields %q, want %q", row.name, got, row.want)
		}
	}
}
