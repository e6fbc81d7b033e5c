package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestExplain checks that explain shows the rule that decides, the caller with
// its role, and the meaning of the image name, without asking an upstream.
func TestExplain(t *testing.T) {
	up := registrytest.New(t)
	lines := []string{sitetest.Users("alice", "bob", "carol", "dave"), sitetest.Private("acme", "alice"), sitetest.Private("acme/platform", "carol"),
		sitetest.Visible("tools", directory.Internal), sitetest.Visible("open", directory.Public), sitetest.Hub(up), sitetest.UpstreamAt("ghcr.io", up.URL()), "admins carol", "blocked dave"}
	s := sitetest.StartWithAdmin(t, lines...)
	up.Reset()
	_, deploy := s.CreateToken("--group", "acme/platform")
	_, revoked := s.CreateToken("--group", "acme")
	s.MustCommand("token", "revoke", revoked)
	for _, row := range []struct{ as, pull, want string }{
		{"alice", "acme/alpine:3.20", "true member; acme private; docker.io library/alpine 3.20; alice of static, member"},
		{"alice", "acme/platform/alpine", "true member; acme/platform private; docker.io library/alpine latest; alice of static, member"},
		{"alice", "acme/other/alpine@" + sitetest.ZeroDigest, "true member; acme private; docker.io other/alpine " + sitetest.ZeroDigest + "; alice of static, member"},
		{"alice", "acme/ghcr.io/org/app:1@" + sitetest.ZeroDigest, "true member; acme private; ghcr.io org/app " + sitetest.ZeroDigest + "; alice of static, member"},
		{"alice", "acme/dependency_proxy/containers/platform/app:1", "true member; acme private; docker.io platform/app 1; alice of static, member"},
		{"alice", s.Host + "/acme/platform/dependency_proxy/containers/app:1", "true member; acme/platform private; docker.io library/app 1; alice of static, member"},
		{"alice", "none/alpine:1", "false unknown group; none ; docker.io library/alpine 1; alice of static, no role"},
		{"bob", "acme/alpine:1", "false not a member; acme private; docker.io library/alpine 1; bob of static, no role"},
		{"bob", "tools/alpine:1", "true internal group; tools internal; docker.io library/alpine 1; bob of static, no role"},
		{"carol", "acme/alpine:1", "true admin; acme private; docker.io library/alpine 1; carol of static, no role"},
		{"dave", "open/alpine:1", "false blocked account; open public; docker.io library/alpine 1; "},
		{"zoe", "open/alpine:1", "false unknown account; open public; docker.io library/alpine 1; "},
		{"", "open/alpine:1", "true public group; open public; docker.io library/alpine 1; "},
		{"", "acme/alpine:1", "false anonymous; acme private; docker.io library/alpine 1; "},
		{"token:" + deploy, "acme/platform/alpine:1", "true member; acme/platform private; docker.io library/alpine 1; token:" + deploy + " of tokens, member by " + deploy},
		{"token:" + deploy, "acme/alpine:1", "false token of other groups; acme private; docker.io library/alpine 1; token:" + deploy + " of tokens, no role by " + deploy},
		{"token:" + revoked, "acme/alpine:1", "false the access token has been revoked; acme private; docker.io library/alpine 1; "},
		{"token:aaaaaaaaaaaaaaaa", "acme/alpine:1", "false no such access token: file does not exist; acme private; docker.io library/alpine 1; "},
	} {
		a := s.Ask(http.MethodGet, sitetest.AdminExplainPull+"?"+url.Values{"as": {row.as}, "pull": {row.pull}}.Encode(), "")
		var all admin.ExplanationList
		if err := json.Unmarshal(a.Data, &all); err != nil || len(all.Answers) != 1 {
			t.Errorf("%s, %s: got %d %s, want one answer", row.as, row.pull, a.StatusCode, a.Data)
			continue
		}
		if got := summaryOf(all.Answers[0]); got != row.want {
			t.Errorf("%s, %s: got\n%s\nwant\n%s", row.as, row.pull, got, row.want)
		}
		out, err := s.Command("explain", "--as", row.as, "--pull", row.pull)
		if (err == nil) != all.Answers[0].Allowed || err != nil && !strings.Contains(err.Error(), "status 3") {
			t.Errorf("%s, %s: got error %v, want one with status 3 if and only if the pull is denied", row.as, row.pull, err)
		}
		for _, what := range []string{all.Answers[0].Rule, all.Answers[0].Group + ", ", all.Answers[0].Repository + " at "} {
			if !strings.Contains(out, what) {
				t.Errorf("the output lacks %q: %s", what, out)
			}
		}
	}
	if counts := up.Counts(); counts != (registrytest.Counts{}) {
		t.Errorf("got requests %+v to upstream, want none", counts)
	}
	list := string(s.Ask(http.MethodGet, sitetest.AdminTokens, "").Data)
	if strings.Contains(list, "last_used") {
		t.Errorf("got the tokens %s, want none marked as used", list)
	}
	s.Load(append(lines, "private_groups off")...)
	if out, err := s.Command("explain", "--as", "alice", "--pull", "acme/x"); err == nil || !strings.Contains(out, "private groups are off") {
		t.Errorf("got error %v and %s, want a denial with the rule", err, out)
	}
	// If a directory is away the pull is neither allowed nor denied.
	s.Load("directory elsewhere", sitetest.Private("acme", "zoe"), sitetest.Hub(up))
	sitetest.ElsewhereAway.Store(true)
	defer sitetest.ElsewhereAway.Store(false)
	if a := s.Ask(http.MethodGet, sitetest.AdminExplainPull+"?as=zoe&pull=acme/x", ""); a.StatusCode != http.StatusServiceUnavailable || !strings.Contains(a.AdminMessage(), "directory elsewhere") {
		t.Errorf("got %d %s, want 503 and the directory's name", a.StatusCode, a.Data)
	}
}

// summaryOf returns an explanation in one line.
func summaryOf(e admin.Explanation) string {
	text := fmt.Sprintf("%v %s; %s %s; %s %s %s; ", e.Allowed, e.Rule, e.Group, e.Visibility, e.Upstream, e.Repository, e.Reference)
	if a := e.Account; a != nil {
		text += fmt.Sprintf("%s of %s, %s", a.Name, a.Directory, a.Role)
		if a.AccessToken != "" {
			text += " by " + a.AccessToken
		}
	}
	return text
}
