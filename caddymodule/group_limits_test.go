package caddymodule

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestInvalidImagePattern checks that a pattern that could never match is an
// error that says what to write.
func TestInvalidImagePattern(t *testing.T) {
	for pattern, want := range map[string]string{
		"":                           "empty component",
		"docker.io/app@sha256:00":    "must not contain a digest; write the repository, as in docker.io/app",
		"https://docker.io/app":      "must not contain a scheme; write docker.io/app",
		"docker.io/App:V1":           "in lower case; write docker.io/app:V1",
		"docker.io/app:":             "invalid tag",
		"localhost:5000/app":         "an upstream has no port",
		"docker.io/app:1:2":          "invalid tag",
		"docker.io/app:**":           "** does not match tags; write docker.io/app",
		"docker.io/app:1 2":          "unexpected character ' '",
		"docker.io/[app":             "unbalanced",
		"docker.io/{app":             "unbalanced",
		"docker.io/app]":             "unexpected character ']'",
		"docker.io/{a/b,c}":          "unbalanced",
		"docker.io/app/":             "empty component",
		"/docker.io/app":             "empty component",
		"docker.io//app":             "empty component",
		"docker.io/acme**":           "** must be a whole component",
		"docker.io/a,":               "patterns are separated by spaces",
		"docker.io/!app":             "unexpected character '!'",
		`docker.io/a\*`:              `unexpected character '\'`,
		"docker.io":                  "missing repository; write docker.io/**",
		"*":                          "missing repository; write */**",
		"alpine":                     "the upstream alpine is not declared; write docker.io/alpine",
		"library/alpine":             "write docker.io/library/alpine, or `upstream library` beside the groups",
		"ghcr.io/acme/**":            "the upstream ghcr.io is not declared",
		"gh*/acme":                   "the upstream gh* is not declared",
		"{docker.io,ghcr.io}/acme/x": "write a pattern for each upstream",
	} {
		h := &Handler{Groups: []*Group{{Path: "acme", Deny: []string{pattern}}}}
		if err := h.check(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "group acme") {
			t.Errorf("%q: got %v, want %q", pattern, err, want)
		}
		h.Groups[0].Allow, h.Groups[0].Deny = h.Groups[0].Deny, nil
		if err := h.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q in allow: got %v, want %q", pattern, err, want)
		}
	}
	h := &Handler{Groups: []*Group{{Path: "acme", Allow: []string{}}}}
	if err := h.check(); err == nil || !strings.Contains(err.Error(), "allow is empty") {
		t.Errorf("an empty list: got %v, want an error", err)
	}
}

// startWithLimits starts a site where alice is a member of acme, which has
// limits, and of free, carol is an admin, and bob is a member of no group.
func startWithLimits(t *testing.T) (*sitetest.Site, *registrytest.Registry, registrytest.Image) {
	t.Helper()
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
	for _, name := range []string{"library/evil", "team/app", "team/app/sub"} {
		up.PutImage(name, "1", sitetest.Random(2, 1000))
		up.PutImage(name, "beta", sitetest.Random(3, 1000))
	}
	s := sitetest.Start(t, sitetest.Users("alice", "bob", "carol"), "admins carol", sitetest.Hub(up), sitetest.UpstreamAt("ghcr.io", up.URL()),
		"group acme {\n members alice\n allow docker.io/library/* docker.io/team/app:1\n allow ghcr.io/team/**\n deny docker.io/*/evil ghcr.io/**:beta\n}",
		"group acme/narrow {\n allow docker.io/library/alpine docker.io/team/app/sub\n}",
		"group acme/wide {\n allow **\n}", sitetest.Private("acme/plain"),
		"group open {\n visibility public\n deny docker.io/team/**\n}", sitetest.Private("free", "alice"))
	return s, up, image
}

// TestGroupLimits checks that the limits of a group apply to it and to its
// subgroups, to members and admins, and to all names of an image, and that
// excluded images cause no requests to upstream.
func TestGroupLimits(t *testing.T) {
	s, up, _ := startWithLimits(t)
	for _, row := range []struct {
		group, image, tag string
		status            int
	}{
		{"acme", "alpine", "3.20", 200}, {"acme", "library/alpine", "3.20", 200}, {"acme", "docker.io/alpine", "3.20", 200},
		{"acme", "evil", "1", 403}, {"acme", "library/evil", "1", 403}, {"acme", "docker.io/library/evil", "1", 403},
		{"acme", "team/app", "1", 200}, {"acme", "team/app", "beta", 403}, {"acme", "team/app/sub", "1", 403}, {"acme", "none/such", "1", 403},
		{"acme", "ghcr.io/team/app", "1", 200}, {"acme", "ghcr.io/team/app/sub", "1", 200}, {"acme", "ghcr.io/team/app", "beta", 403},
		{"acme", "ghcr.io/library/alpine", "3.20", 403},
		{"acme/narrow", "alpine", "3.20", 200}, {"acme/narrow", "team/app", "1", 403}, {"acme/narrow", "team/app/sub", "1", 403}, {"acme/narrow", "evil", "1", 403},
		{"acme/wide", "evil", "1", 403}, {"acme/wide", "team/app/sub", "1", 403}, {"acme/wide", "team/app", "1", 200},
		{"acme/plain", "evil", "1", 403}, {"acme/plain", "alpine", "3.20", 200},
		{"open", "team/app", "1", 403}, {"open", "evil", "1", 200}, {"free", "evil", "1", 200},
	} {
		for _, name := range []string{"alice", "carol"} {
			up.Reset()
			code := map[int]string{200: "", 403: "DENIED"}[row.status]
			s.Get(sitetest.ManifestPath(row.group, row.image, row.tag), sitetest.As(name)).Expect(t, row.status, code)
			s.Head(sitetest.ManifestPath(row.group, row.image, row.tag), sitetest.As(name)).Expect(t, row.status, code)
			if counts := up.Counts(); row.status == 403 && counts != (registrytest.Counts{}) {
				t.Errorf("%v: got requests %+v to upstream, want none", row, counts)
			}
		}
	}
}

// TestGroupLimitsByResource checks that limits also apply to manifests by
// digest, blobs, lists, the paths of mirrors, and cached content.
func TestGroupLimitsByResource(t *testing.T) {
	s, up, image := startWithLimits(t)
	evil := up.PutImage("library/evil", "1", sitetest.Random(2, 1000))
	app := up.PutImage("team/app", "1", sitetest.Random(2, 1000))
	for _, group := range []string{"acme", "free"} {
		sitetest.Pull(t, s, group, "alpine", "3.20", sitetest.As("alice"))
		sitetest.Pull(t, s, group, "team/app", "1", sitetest.As("alice"))
	}
	sitetest.Pull(t, s, "free", "evil", "1", sitetest.As("alice"))
	paths := func(group, image string, i registrytest.Image, tag string) []string {
		return []string{
			sitetest.ManifestPath(group, image, tag), sitetest.ManifestPath(group, image, string(i.Manifest)), sitetest.BlobPath(group, image, i.Layers[0]), sitetest.BlobPath(group, image, i.Config),
			"/v2/" + group + infix + image + "/tags/list", "/v2/" + group + infix + image + "/referrers/" + string(i.Manifest),
			"/" + group + infix + "v2/" + image + "/manifests/" + tag, sitetest.ManifestPath(group, image, tag) + "?ns=docker.io",
		}
	}
	for _, path := range append(paths("acme", "library/alpine", image, "3.20"), paths("acme", "team/app", app, "1")...) {
		s.Get(path, sitetest.As("alice")).Expect(t, http.StatusOK, "")
	}
	up.Reset()
	for _, path := range append(paths("acme", "library/evil", evil, "1"), paths("acme/narrow", "team/app", app, "1")...) {
		for _, name := range []string{"alice", "carol"} {
			s.Get(path, sitetest.As(name)).Expect(t, http.StatusForbidden, "DENIED")
		}
	}
	// ns names the upstream: docker.io's team/app:beta is not allowed, ghcr.io's is denied by tag.
	s.Get(sitetest.ManifestPath("acme", "library/alpine", "3.20")+"?ns=ghcr.io", sitetest.As("alice")).Expect(t, http.StatusForbidden, "DENIED")
	if counts := up.Counts(); counts != (registrytest.Counts{}) {
		t.Errorf("got requests %+v to upstream, want none", counts)
	}
	s.Get(sitetest.ManifestPath("acme", "team/app/sub", "1")+"?ns=ghcr.io", sitetest.As("alice")).Expect(t, http.StatusOK, "")

	// A limit applies to cached content too, also after the next reload.
	s.Load(sitetest.Users("alice"), sitetest.Hub(up), "group acme {\n members alice\n deny docker.io/alpine\n}", sitetest.Private("free", "alice"))
	for _, path := range paths("acme", "library/alpine", image, "3.20") {
		s.Get(path, sitetest.As("alice")).Expect(t, http.StatusForbidden, "DENIED")
	}
	sitetest.Pull(t, s, "free", "alpine", "3.20", sitetest.As("alice"))
}

// TestGroupLimitsDenial checks that the answer names the group with the limit
// to callers who may pull from the group, and reveals nothing to others.
func TestGroupLimitsDenial(t *testing.T) {
	s, _, _ := startWithLimits(t)
	path := sitetest.ManifestPath("acme/wide", "evil", "1")
	for who, detail := range map[string]string{"alice": `{"rule":"group acme: deny docker.io/*/evil"}`, "carol": `{"rule":"group acme: deny docker.io/*/evil"}`} {
		a := s.Get(path, sitetest.As(who)).Expect(t, http.StatusForbidden, "DENIED")
		if _, message := a.Problem(); !strings.Contains(message, "docker.io/library/evil:1 cannot be pulled through group acme/wide") || !strings.Contains(message, "the owner of group acme decides") {
			t.Errorf("%s: got the message %q, want the image, the group and who decides", who, message)
		}
		if !strings.Contains(string(a.Data), detail) {
			t.Errorf("%s: got %s, want the detail %s", who, a.Data, detail)
		}
	}
	if logs := s.Logs(); !strings.Contains(logs, `"reason":"group acme: deny docker.io/*/evil"`) {
		t.Error("the audit log lacks the pattern")
	}
	anonymous := sitetest.Bearer(s.Get(sitetest.Auth).Tokens().Token)
	if a := s.Get(sitetest.ManifestPath("open", "team/app", "1"), anonymous).Expect(t, http.StatusForbidden, "DENIED"); !strings.Contains(string(a.Data), "the limits of group open exclude it") || !strings.Contains(string(a.Data), `"detail":null`) {
		t.Errorf("got %s for an anonymous caller of a public group, want the group's limits without a detail", a.Data)
	}
	for _, who := range []sitetest.RequestOption{sitetest.As("bob"), anonymous} {
		want := s.Get(sitetest.ManifestPath("nothere", "evil", "1"), who).Expect(t, http.StatusForbidden, "DENIED")
		for _, image := range []string{"evil", "alpine"} {
			got := s.Get(sitetest.ManifestPath("acme", image, "1"), who)
			if strings.ReplaceAll(string(got.Data), "acme", "nothere") != string(want.Data) || got.StatusCode != want.StatusCode {
				t.Errorf("got %s for a caller without access, want %s", got.Data, want.Data)
			}
		}
	}
}

// TestGroupLimitsOnPage checks that the page of a group shows the limits that
// apply to it.
func TestGroupLimitsOnPage(t *testing.T) {
	s, _, _ := startWithLimits(t)
	want := `"limits":["group acme/narrow: allow docker.io/library/alpine docker.io/team/app/sub","group acme: allow docker.io/library/* docker.io/team/app:1 ghcr.io/team/**","group acme: deny docker.io/*/evil ghcr.io/**:beta"]`
	if a := s.Get("/acme/narrow/dependency_proxy", sitetest.As("carol")).Expect(t, http.StatusOK, ""); !strings.Contains(string(a.Data), want) {
		t.Errorf("got %s, want %s", a.Data, want)
	}
	if a := s.Get("/acme/narrow/dependency_proxy", sitetest.As("carol"), sitetest.Header("Accept", "text/html")); !strings.Contains(string(a.Data), "<code>group acme: deny docker.io/*/evil ghcr.io/**:beta</code>") {
		t.Errorf("got the page %s, want the limits on it", a.Data)
	}
	if a := s.Get("/free/dependency_proxy", sitetest.As("carol")).Expect(t, http.StatusOK, ""); strings.Contains(string(a.Data), "limits") {
		t.Errorf("got %s for a group without limits, want none", a.Data)
	}
}

// TestGroupLimitsExplained checks that explain names the pattern that decides.
func TestGroupLimitsExplained(t *testing.T) {
	up := registrytest.New(t)
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice", "bob"), sitetest.Hub(up), "group acme {\n members alice\n allow docker.io/library/* docker.io/team/app:1.*\n deny docker.io/*:beta\n}",
		"group acme/sub {\n allow docker.io/team/**\n}")
	up.Reset()
	for _, row := range []struct{ as, pull, want string }{
		{"alice", "acme/alpine:1", "true member [group acme: allow docker.io/library/*]"},
		{"alice", "acme/sub/team/app:1.2", "true member [group acme/sub: allow docker.io/team/** group acme: allow docker.io/team/app:1.*]"},
		{"alice", "acme/sub/alpine:1", "false group acme/sub: no allow pattern matches docker.io/library/alpine:1 []"},
		{"alice", "acme/team/app:2", "false group acme: no allow pattern matches docker.io/team/app:2 []"},
		{"alice", "acme/team/app@" + sitetest.ZeroDigest, "true member [group acme: allow docker.io/team/app:1.*]"},
		{"alice", "acme/alpine:beta", "false group acme: deny docker.io/*:beta []"},
		{"bob", "acme/alpine:beta", "false not a member []"},
	} {
		a := s.Ask(http.MethodGet, sitetest.AdminExplainPull+"?"+url.Values{"as": {row.as}, "pull": {row.pull}}.Encode(), "")
		var all admin.ExplanationList
		if err := json.Unmarshal(a.Data, &all); err != nil || len(all.Answers) != 1 {
			t.Fatalf("%s: got %d %s, want one answer", row.pull, a.StatusCode, a.Data)
		}
		e := all.Answers[0]
		verdict := map[bool]string{true: "true ", false: "false "}[e.Allowed]
		if got := verdict + e.Rule + " [" + strings.Join(e.Limits, " ") + "]"; got != row.want {
			t.Errorf("%s, %s: got %s, want %s", row.as, row.pull, got, row.want)
		}
	}
	if out := s.MustCommand("explain", "--as", "alice", "--pull", "acme/alpine:1"); !strings.Contains(out, "limit:       group acme: allow docker.io/library/*\n") {
		t.Errorf("the command prints %s, want the limit", out)
	}
	if counts := up.Counts(); counts != (registrytest.Counts{}) {
		t.Errorf("got requests %+v to upstream, want none", counts)
	}
}
