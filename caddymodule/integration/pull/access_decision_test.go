package pull

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestAccessDecision checks that each caller pulls from exactly the groups that
// the configuration gives it. alice is a member of acme, carol of
// acme/platform, bob of no group, and the anonymous caller has not logged in.
func TestAccessDecision(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
	groups := sitetest.Users("alice", "bob", "carol") + sitetest.Private("acme", "alice") + sitetest.Private("acme/platform", "carol") + sitetest.Private("acme/platform/deep") +
		sitetest.Visible("acme/open", directory.Public) + sitetest.Visible("tools", directory.Internal) + sitetest.Visible("open", directory.Public) + sitetest.Private("open/closed", "carol") + sitetest.Private("empty") + sitetest.Private("acmeplus")
	s := sitetest.Start(t, groups, sitetest.Hub(up))
	anonymous := s.Get(sitetest.Auth).Tokens().Token
	callers := map[string]sitetest.RequestOption{"nobody": sitetest.Bearer(anonymous)}
	for _, name := range []string{"alice", "bob", "carol"} {
		callers[name] = sitetest.Bearer(s.Token(name))
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
					sitetest.ManifestPath(group, "alpine", "3.20"), sitetest.ManifestPath(group, "alpine", string(image.Manifest)), sitetest.BlobPath(group, "alpine", image.Layers[0]),
					"/v2/" + group + directory.Infix + "alpine/tags/list", "/v2/" + group + directory.Infix + "alpine/referrers/" + string(image.Manifest),
					"/" + group + directory.Infix + "v2/library/alpine/manifests/3.20",
				} {
					s.Get(path, who).Expect(t, status, code).Has(t, "WWW-Authenticate", "")
					s.Head(path, who).Expect(t, status, code)
				}
			}
		}
	}
	all := "nobody alice bob carol"
	check(map[string]string{
		"acme": "alice", "acme/platform": "alice carol", "acme/platform/deep": "alice carol", "acme/open": all, "tools": "alice bob carol", "open": all,
		"open/closed": "carol", "empty": "", "acmeplus": "", "none": "", "acme/none": "", "acm": "", "acme/platform/deep/er": "",
	})
	s.Load(groups, sitetest.Hub(up), "private_groups off")
	check(map[string]string{"acme": "", "acme/platform": "", "acme/open": all, "tools": "", "open": all, "open/closed": "", "none": ""})
	if !strings.Contains(s.Logs(), "private groups are off") {
		t.Error("the log lacks \"private groups are off\"")
	}
}

// TestUnknownGroupLooksForbidden checks that callers without access get the
// same answer for a group that exists and for one that does not.
func TestUnknownGroupLooksForbidden(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.Private("secret", "alice"), sitetest.Visible("open", directory.Public), sitetest.Hub(up))
	s.Get(sitetest.ManifestPath("secret", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	up.Reset()
	for _, who := range []sitetest.RequestOption{sitetest.As("bob"), sitetest.Bearer(s.Token("bob")), sitetest.Bearer(s.Get(sitetest.Auth).Tokens().Token)} {
		for _, rest := range []string{"alpine/manifests/3.20", "alpine/manifests/none", "alpine/blobs/" + sitetest.ZeroDigest, "none/tags/list", "alpine/referrers/" + sitetest.ZeroDigest} {
			there := s.Get("/v2/secret"+directory.Infix+rest, who).Expect(t, http.StatusForbidden, "DENIED")
			not := s.Get("/v2/nogood"+directory.Infix+rest, who).Expect(t, http.StatusForbidden, "DENIED")
			if a, b := string(there.Data), strings.ReplaceAll(string(not.Data), "nogood", "secret"); a != b {
				t.Errorf("%s: got the body %s for an existing group, want %s as for another", rest, a, b)
			}
			there.Header.Del("Date")
			not.Header.Del("Date")
			if a, b := fmt.Sprint(there.Header), fmt.Sprint(not.Header); a != b {
				t.Errorf("%s: got the header %s for an existing group, want %s as for another", rest, a, b)
			}
			if _, message := there.Problem(); !strings.Contains(message, "ask") && !strings.Contains(message, "docker login "+s.Host) {
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
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	s.Get("/v2/", sitetest.As("alice")).Content(t, []byte("{}"))
	s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Content(t, up.RawManifest("library/alpine", image.Manifest))
	s.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.As("alice")).Content(t, sitetest.Random(1, 1000))
	s.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.As("bob")).Expect(t, http.StatusForbidden, "DENIED")
	if !strings.Contains(s.Logs(), `"user_id":"alice"`) {
		t.Error("the access log lacks the user alice")
	}
}

// TestBlockedAccountRefused checks that a blocked account is refused at once,
// with its password and with a token issued before, and that the answer is the
// same as for a wrong password.
func TestBlockedAccountRefused(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	lines := []string{sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice", "bob"), sitetest.Hub(up)}
	s := sitetest.Start(t, lines...)
	path := sitetest.ManifestPath("acme", "alpine", "3.20")
	token := s.Token("alice")
	s.Get(path, sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	s.Load(append(lines, "blocked alice")...)
	s.Get(path, sitetest.Bearer(token)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	blocked := s.Get(sitetest.Auth, sitetest.As("alice")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	wrong := s.Get(sitetest.Auth, func(r *http.Request) { r.SetBasicAuth("bob", "wrong") }).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	if string(blocked.Data) != string(wrong.Data) {
		t.Errorf("got %s for a blocked account, want %s as for a wrong password", blocked.Data, wrong.Data)
	}
	s.Get(path, sitetest.As("bob")).Expect(t, http.StatusOK, "")
	if !strings.Contains(s.Logs(), "the account is blocked") {
		t.Error("the log lacks \"the account is blocked\"")
	}
}

// TestDenialDetailForInsiders checks that a denial names the rule that decided
// only to members of the group and to admins.
func TestDenialDetailForInsiders(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice", "bob", "carol"), sitetest.Private("acme", "alice"), "private_groups off", "admins carol")
	for name, rule := range map[string]string{"alice": `{"rule":"private groups are off"}`, "carol": `{"rule":"private groups are off"}`, "bob": "null"} {
		a := s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As(name)).Expect(t, http.StatusForbidden, "DENIED")
		if !strings.Contains(string(a.Data), `"detail":`+rule+`}`) {
			t.Errorf("%s: got %s, want the detail %s", name, a.Data, rule)
		}
	}
}
