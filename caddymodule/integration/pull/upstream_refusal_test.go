package pull

import (
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestUpstreamRefusesRepository checks that a refusal of one repository, by the
// registry or its token service, is a 404 without a warning, and that a refusal of
// the login itself is a 502 with one.
func TestUpstreamRefusesRepository(t *testing.T) {
	for name, test := range map[string]struct {
		option   registrytest.Option
		fail     []registrytest.Failure // in this order
		accepted bool                   // the login is accepted
	}{
		"token service, one repository": {registrytest.WithToken("hub", sitetest.UpstreamPassword), nil, true},
		"registry, one repository":      {registrytest.WithBasic("hub", sitetest.UpstreamPassword), []registrytest.Failure{{Op: registrytest.OpManifest, Status: 403}}, true},
		"token service, expired login":  {registrytest.WithToken("hub", sitetest.UpstreamPassword), []registrytest.Failure{{Op: registrytest.OpToken, Status: 403}}, false},
		"registry, expired login":       {registrytest.WithBasic("hub", sitetest.UpstreamPassword), []registrytest.Failure{{Status: 403}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t, test.option)
			up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
			up.PutImage("library/private", "1", sitetest.Random(2, 100))
			s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, sitetest.HubCredentials(t)))
			s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
			for _, f := range test.fail {
				up.Fail(f)
			}
			up.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
				refuse := test.fail == nil && strings.Contains(r.URL.Query().Get("scope"), "private")
				if refuse {
					w.WriteHeader(http.StatusForbidden)
				}
				return refuse
			})
			path := sitetest.ManifestPath("acme", "private", "1")
			if test.accepted {
				s.Get(path, sitetest.As("alice")).Expect(t, http.StatusNotFound, "NAME_UNKNOWN")
			} else {
				s.Get(path, sitetest.As("alice")).Expect(t, http.StatusBadGateway, "UNAVAILABLE")
			}
			warned := false
			for line := range strings.Lines(s.Logs()) {
				warned = warned || strings.Contains(line, `"level":"warn"`) && strings.Contains(line, "rejected the configured credentials")
			}
			if warned == test.accepted {
				t.Errorf("got a warning about the login: %v, want %v", warned, !test.accepted)
			}
		})
	}
}

// TestUpstreamGateway checks that a pull works through a registry that redirects to
// one which requires an anonymous token.
func TestUpstreamGateway(t *testing.T) {
	back := registrytest.New(t, registrytest.WithToken("", ""), registrytest.WithBlobRedirect())
	back.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000), sitetest.Random(2, 100))
	front := registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword), registrytest.WithGateway(back))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(front, sitetest.HubCredentials(t)))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	if got := back.Counts(); got.Challenged != 1 || got.Token != 1 {
		t.Errorf("got requests %+v, want 1 challenge and 1 token request", got)
	}
}
