package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestAccessDecision checks that each caller pulls from exactly the groups that
// the configuration gives it. alice is a member of acme, carol of
// acme/platform, bob of no group, and the anonymous caller has not logged in.
func TestAccessDecision(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", random(1, 1000))
	groups := users("alice", "bob", "carol") + private("acme", "alice") + private("acme/platform", "carol") + private("acme/platform/deep") +
		visible("acme/open", directory.Public) + visible("tools", directory.Internal) + visible("open", directory.Public) + private("open/closed", "carol") + private("empty") + private("acmeplus")
	s := start(t, groups, hub(up))
	anonymous := s.get(auth).tokens().Token
	callers := map[string]requestOption{"nobody": bearer(anonymous)}
	for _, name := range []string{"alice", "bob", "carol"} {
		callers[name] = bearer(s.token(name))
	}
	check := func(may map[string]string) {
		t.Helper()
		for group, names := range may {
			for name, who := range callers {
				status, code := http.StatusForbidden, "DENIED"
				if strings.Contains(" "+names+" ", " "+name+" ") {
					status, code = http.StatusOK, ""
				}
				for _, path := range []string{
					manifestPath(group, "alpine", "3.20"), manifestPath(group, "alpine", string(image.Manifest)), blobPath(group, "alpine", image.Layers[0]),
					"/v2/" + group + infix + "alpine/tags/list", "/v2/" + group + infix + "alpine/referrers/" + string(image.Manifest),
					"/" + group + infix + "v2/library/alpine/manifests/3.20",
				} {
					s.get(path, who).expect(t, status, code).has(t, "WWW-Authenticate", "")
					s.head(path, who).expect(t, status, code)
				}
			}
		}
	}
	all := "nobody alice bob carol"
	check(map[string]string{
		"acme": "alice", "acme/platform": "alice carol", "acme/platform/deep": "alice carol", "acme/open": all, "tools": "alice bob carol", "open": all,
		"open/closed": "carol", "empty": "", "acmeplus": "", "none": "", "acme/none": "", "acm": "", "acme/platform/deep/er": "",
	})
	s.load(groups, hub(up), "private_groups off")
	check(map[string]string{"acme": "", "acme/platform": "", "acme/open": all, "tools": "", "open": all, "open/closed": "", "none": ""})
	if !strings.Contains(s.logs(), "private groups are off") {
		t.Error("the log lacks \"private groups are off\"")
	}
}

// TestUnknownGroupLooksForbidden checks that callers without access get the
// same answer for a group that exists and for one that does not.
func TestUnknownGroupLooksForbidden(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 1000))
	s := start(t, users("alice", "bob"), private("secret", "alice"), visible("open", directory.Public), hub(up))
	s.get(manifestPath("secret", "alpine", "3.20"), as("alice")).expect(t, http.StatusOK, "")
	up.Reset()
	for _, who := range []requestOption{as("bob"), bearer(s.token("bob")), bearer(s.get(auth).tokens().Token)} {
		for _, rest := range []string{"alpine/manifests/3.20", "alpine/manifests/none", "alpine/blobs/" + zeroDigest, "none/tags/list", "alpine/referrers/" + zeroDigest} {
			there := s.get("/v2/secret"+infix+rest, who).expect(t, http.StatusForbidden, "DENIED")
			not := s.get("/v2/nogood"+infix+rest, who).expect(t, http.StatusForbidden, "DENIED")
			if a, b := string(there.body), strings.ReplaceAll(string(not.body), "nogood", "secret"); a != b {
				t.Errorf("%s: got the body %s for an existing group, want %s as for another", rest, a, b)
			}
			there.Header.Del("Date")
			not.Header.Del("Date")
			if a, b := fmt.Sprint(there.Header), fmt.Sprint(not.Header); a != b {
				t.Errorf("%s: got the header %s for an existing group, want %s as for another", rest, a, b)
			}
			if _, message := there.problem(); !strings.Contains(message, "ask") && !strings.Contains(message, "docker login "+s.host) {
				t.Errorf("got the message %q, want one that says what to do", message)
			}
		}
	}
	if counts := up.Counts(); counts != (registrytest.Counts{}) {
		t.Errorf("got requests %+v to upstream, want none", counts)
	}
}

// TestBasicLoginAtRegistry checks that the registry accepts Basic credentials
// as well as a token.
func TestBasicLoginAtRegistry(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", random(1, 1000))
	s := start(t, users("alice", "bob"), private("acme", "alice"), hub(up))
	s.get("/v2/", as("alice")).content(t, []byte("{}"))
	s.get(manifestPath("acme", "alpine", "3.20"), as("alice")).content(t, up.RawManifest("library/alpine", image.Manifest))
	s.get(blobPath("acme", "alpine", image.Layers[0]), as("alice")).content(t, random(1, 1000))
	s.get(blobPath("acme", "alpine", image.Layers[0]), as("bob")).expect(t, http.StatusForbidden, "DENIED")
	if !strings.Contains(s.logs(), `"user_id":"alice"`) {
		t.Error("the access log lacks the user alice")
	}
}

// TestBlockedAccountRefused checks that a blocked account is refused at once,
// with its password and with a token issued before, and that the answer is the
// same as for a wrong password.
func TestBlockedAccountRefused(t *testing.T) {
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
		t.Errorf("got %s for a blocked account, want %s as for a wrong password", blocked.body, wrong.body)
	}
	s.get(path, as("bob")).expect(t, http.StatusOK, "")
	if !strings.Contains(s.logs(), "the account is blocked") {
		t.Error("the log lacks \"the account is blocked\"")
	}
}

// TestDenialDetailForInsiders checks that a denial names the rule that decided
// only to members of the group and to admins.
func TestDenialDetailForInsiders(t *testing.T) {
	s := start(t, users("alice", "bob", "carol"), private("acme", "alice"), "private_groups off", "admins carol")
	for name, rule := range map[string]string{"alice": `{"rule":"private groups are off"}`, "carol": `{"rule":"private groups are off"}`, "bob": "null"} {
		a := s.get(manifestPath("acme", "alpine", "3.20"), as(name)).expect(t, http.StatusForbidden, "DENIED")
		if !strings.Contains(string(a.body), `"detail":`+rule+`}`) {
			t.Errorf("%s: got %s, want the detail %s", name, a.body, rule)
		}
	}
}
