package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// logLines returns the given fields of the lines of a logger since the last call.
func (s *site) logLines(seen *int, logger string, fields ...string) (lines []string) {
	s.t.Helper()
	all := strings.Split(strings.TrimSpace(s.logs()), "\n")
	for _, text := range all[*seen:] {
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			s.t.Fatal(err)
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
	image := up.PutImage("library/alpine", "3.20", random(1, 1000))
	size := len(up.RawManifest("library/alpine", image.Manifest))
	lines := []string{users("alice"), private("acme", "alice"), visible("open", directory.Public), hub(up)}
	s := start(t, lines...)
	token := s.token("alice")
	seen := 0
	expect := func(when string, want ...string) {
		t.Helper()
		got := s.logLines(&seen, "http.handlers.dependency_proxy.audit.pull", "level", "event", "account", "directory", "client_ip", "group",
			"upstream", "repository", "tag", "digest", "result", "bytes", "pulls")
		if !slices.Equal(got, want) {
			t.Errorf("%s: got the lines %q, want %q", when, got, want)
		}
	}
	line := func(event, tag, result string, bytes int) string {
		return fmt.Sprintf("info|%s|alice|static|127.0.0.1|acme|docker.io|library/alpine|%s|%s|%s|%d|<nil>", event, tag, image.Manifest, result, bytes)
	}
	tag, digest := manifestPath("acme", "alpine", "3.20"), manifestPath("acme", "alpine", string(image.Manifest))
	s.head(tag, bearer(token)).expect(t, http.StatusOK, "")
	s.get(digest, bearer(token)).expect(t, http.StatusOK, "")
	s.head(digest, bearer(token)).expect(t, http.StatusOK, "")
	s.get(tag, bearer(token)).expect(t, http.StatusOK, "")
	s.get(tag, bearer(token), header("If-None-Match", `"`+string(image.Manifest)+`"`)).expect(t, http.StatusNotModified, "")
	s.get(blobPath("acme", "alpine", image.Layers[0]), bearer(token)).expect(t, http.StatusOK, "")
	s.get(manifestPath("acme", "alpine", "missing"), bearer(token)).expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	s.get(tag).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	last := ""
	eventually(t, "the audit lines", func() bool { last = s.logs(); return strings.Count(last, `"event":"pull"`) >= 3 })
	expect("alice", line("resolve", "3.20", "miss", 0), line("pull", "", "miss", size), line("pull", "3.20", "hit", size), line("pull", "3.20", "hit", 0))

	anonymous := s.get("/jwt/auth?service=dependency_proxy").expect(t, http.StatusOK, "").tokens().Token
	for range 3 {
		s.get(manifestPath("open", "alpine", "3.20"), bearer(anonymous)).expect(t, http.StatusOK, "")
	}
	s.head(manifestPath("open", "alpine", "3.20"), bearer(anonymous)).expect(t, http.StatusOK, "")
	expect("before the minute is over")
	s.load(append(lines, "private_groups off")...)
	expect("after a reload", fmt.Sprintf("info|anonymous pulls|<nil>|<nil>|<nil>|open|docker.io|library/alpine|<nil>|%s|<nil>|%d|3", image.Manifest, 3*size))
}

// TestPlaceholders checks what an access log can tell by placeholders.
func TestPlaceholders(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 1000))
	s := newSite(t)
	names := []string{"group", "image", "upstream", "cache_status", "account", "rule"}
	for _, name := range names {
		s.before += fmt.Sprintf("log_append %s {http.dependency_proxy.%s}\n", name, name)
	}
	s.load(users("alice", "bob"), private("acme", "alice"), visible("open", directory.Public), hub(up))
	token, other := s.token("alice"), s.token("bob")
	seen := 0
	path := manifestPath("acme", "docker.io/library/alpine", "3.20")
	for _, row := range []struct {
		name string
		ask  func() answer
		want string
	}{
		{"a miss", func() answer { return s.get(path, bearer(token)) }, "acme|docker.io/library/alpine|docker.io|miss|static:alice|member"},
		{"a hit", func() answer { return s.head(path, bearer(token)) }, "acme|docker.io/library/alpine|docker.io|hit|static:alice|member"},
		{"a denial", func() answer { return s.get(path, bearer(other)) }, "acme|docker.io/library/alpine|||static:bob|not a member"},
		{"no login", func() answer { return s.get(path) }, "acme|docker.io/library/alpine||||"},
		{"a foreign login", func() answer { return s.get(manifestPath("open", "alpine", "3.20"), as("mallory")) }, "open|alpine|docker.io|miss||public group"},
		{"absence", func() answer { return s.get(manifestPath("acme", "none", "1"), bearer(token)) }, "acme|none|docker.io||static:alice|member"},
		{"a ping", func() answer { return s.get("/v2/", bearer(token)) }, "||||static:alice|"},
		{"another handler", func() answer { return s.get("/") }, "<nil>|<nil>|<nil>|<nil>|<nil>|<nil>"},
	} {
		before := strings.Count(s.logs(), `"http.log.access`)
		row.ask()
		eventually(t, "the access log", func() bool { return strings.Count(s.logs(), `"http.log.access`) > before })
		if got := s.logLines(&seen, "http.log.access", names...); len(got) == 0 || got[len(got)-1] != row.want {
			t.Errorf("%s: got the fields %q, want %q", row.name, got, row.want)
		}
	}
}
