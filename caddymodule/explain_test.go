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
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestExplain checks that explain shows the rule that decides, the caller with
// its role, and the meaning of the image name, without asking an upstream.
func TestExplain(t *testing.T) {
	up := registrytest.New(t)
	lines := []string{users("alice", "bob", "carol", "dave"), private("acme", "alice"), private("acme/platform", "carol"),
		visible("tools", directory.Internal), visible("open", directory.Public), hub(up), upstreamAt("ghcr.io", up.URL()), "admins carol", "blocked dave"}
	s := startWithAdmin(t, lines...)
	up.Reset()
	_, deploy := s.createToken("--group", "acme/platform")
	_, revoked := s.createToken("--group", "acme")
	s.mustCommand("token", "revoke", revoked)
	for _, row := range []struct{ as, pull, want string }{
		{"alice", "acme/alpine:3.20", "true member; acme private; docker.io library/alpine 3.20; alice of static, member"},
		{"alice", "acme/platform/alpine", "true member; acme/platform private; docker.io library/alpine latest; alice of static, member"},
		{"alice", "acme/other/alpine@" + zeroDigest, "true member; acme private; docker.io other/alpine " + zeroDigest + "; alice of static, member"},
		{"alice", "acme/ghcr.io/org/app:1@" + zeroDigest, "true member; acme private; ghcr.io org/app " + zeroDigest + "; alice of static, member"},
		{"alice", "acme/dependency_proxy/containers/platform/app:1", "true member; acme private; docker.io platform/app 1; alice of static, member"},
		{"alice", s.host + "/acme/platform/dependency_proxy/containers/app:1", "true member; acme/platform private; docker.io library/app 1; alice of static, member"},
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
		a := s.ask(http.MethodGet, adminExplainPull+"?"+url.Values{"as": {row.as}, "pull": {row.pull}}.Encode(), "")
		var all admin.ExplanationList
		if err := json.Unmarshal(a.body, &all); err != nil || len(all.Answers) != 1 {
			t.Errorf("%s, %s: got %d %s, want one answer", row.as, row.pull, a.StatusCode, a.body)
			continue
		}
		if got := summaryOf(all.Answers[0]); got != row.want {
			t.Errorf("%s, %s: got\n%s\nwant\n%s", row.as, row.pull, got, row.want)
		}
		out, err := s.command("explain", "--as", row.as, "--pull", row.pull)
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
	list := string(s.ask(http.MethodGet, adminTokens, "").body)
	if strings.Contains(list, "last_used") {
		t.Errorf("got the tokens %s, want none marked as used", list)
	}
	s.load(append(lines, "private_groups off")...)
	if out, err := s.command("explain", "--as", "alice", "--pull", "acme/x"); err == nil || !strings.Contains(out, "private groups are off") {
		t.Errorf("got error %v and %s, want a denial with the rule", err, out)
	}
	// If a directory is away the pull is neither allowed nor denied.
	s.load("directory elsewhere", private("acme", "zoe"), hub(up))
	elsewhereAway.Store(true)
	defer elsewhereAway.Store(false)
	if a := s.ask(http.MethodGet, adminExplainPull+"?as=zoe&pull=acme/x", ""); a.StatusCode != http.StatusServiceUnavailable || !strings.Contains(a.adminMessage(), "directory elsewhere") {
		t.Errorf("got %d %s, want 503 and the directory's name", a.StatusCode, a.body)
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
