package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// selfCredentials returns the line with the credentials of alice.
func selfCredentials(t *testing.T) string {
	t.Setenv("SELF_PASSWORD", passwordOf("alice"))
	return "credentials alice {env.SELF_PASSWORD}"
}

// TestOwnUpstream checks that images are pulled from a site that is its own upstream, or
// that of another site on the same cache, where the pull ends at another registry.
func TestOwnUpstream(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 300_000)
	image := up.PutImage("library/alpine", "3.20", layer)

	s := newSite(t)
	s.load(users("alice"), private("acme", "alice"), hub(up), upstreamAt("self", s.url, selfCredentials(t)))
	pull(t, s, "acme", "self/acme/dependency_proxy/containers/alpine", "3.20", as("alice"))
	s.stop()

	s, other, second := twoSites(t)
	s.after = second(users("alice"), private("acme", "alice"), hub(up))
	s.load(users("alice"), private("acme", "alice"), upstreamAt("other", other.url+"/acme/dependency_proxy/containers", selfCredentials(t)))
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
	s.get(blobPath("acme", "alpine", image.Layers[0]), as("alice"), header("Via", "1.1 somebody, 1.1 else")).content(t, layer)
}

// TestUpstreamLoop checks that a pull that leads back to the same upstream of this
// process, directly or by way of another site, ends at once with an error that says so.
func TestUpstreamLoop(t *testing.T) {
	const infixed = "/acme/dependency_proxy/containers"
	up := registrytest.New(t)
	d := up.PutBlob("library/alpine", random(1, 1000))
	expect := func(s *site) {
		t.Helper()
		for _, path := range []string{manifestPath("acme", "alpine", "3.20"), manifestPath("acme", "alpine", string(d)), blobPath("acme", "alpine", d), "/v2" + infixed + "/alpine/tags/list"} {
			a := s.get(path, as("alice")).expect(t, http.StatusBadGateway, "UNAVAILABLE")
			if _, message := a.problem(); !strings.Contains(message, "leads back to this proxy") {
				t.Errorf("%s: got the message %q, want one about a loop", path, message)
			}
			s.head(path, as("alice")).expect(t, http.StatusBadGateway, "")
		}
	}
	s := newSite(t)
	s.load(users("alice"), private("acme", "alice"), upstreamAt("self", s.url+infixed, selfCredentials(t)))
	expect(s)
	s.stop()

	s, other, second := twoSites(t)
	s.after = second(users("alice"), private("acme", "alice"), upstreamAt("one", s.url+infixed, selfCredentials(t)))
	s.load(users("alice"), private("acme", "alice"), upstreamAt("two", other.url+infixed, selfCredentials(t)))
	expect(s)
	expect(other)
}
