package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/porttest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestReloadDuringPull checks that a pull that is running during a reload is
// completed, and that the new configuration has its content.
func TestReloadDuringPull(t *testing.T) {
	for name, change := range map[string]string{
		"another account":    users("bob"),
		"another key age":    "token {\n rotate 1d\n}",
		"another lifetime":   "token {\n lifetime 1h\n}",
		"private groups off": "private_groups off",
	} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t)
			layer := random(1, 400_000)
			d := up.PutBlob("library/alpine", layer)
			lines := []string{users("alice"), private("acme", "alice"), visible("open", directory.Public), hub(up)}
			s := start(t, lines...)
			token := s.token("alice")
			release := up.StallBlobs(200_000)
			var pulls [3]*http.Response
			for i := range pulls {
				pulls[i] = s.open(blobPath("acme", "alpine", d), bearer(token))
				if _, err := io.ReadFull(pulls[i].Body, make([]byte, 150_000)); err != nil {
					t.Fatal(err)
				}
			}
			s.load(append(lines, change)...)
			if change != "private_groups off" {
				late := s.open(blobPath("acme", "alpine", d), bearer(token)) // joins the fill of the former configuration
				defer func() {
					s.finish(late).content(t, layer).has(t, "Cache-Status", "dependency-proxy; fwd=miss; collapsed")
				}()
			} else {
				s.get(blobPath("acme", "alpine", d), bearer(token)).expect(t, http.StatusForbidden, "DENIED")
			}
			s.load(append(lines, change, "realm "+s.url+"/jwt/auth")...) // and once more
			release()
			for _, pull := range pulls {
				rest, err := io.ReadAll(pull.Body)
				if err != nil || string(rest) != string(layer[150_000:]) {
					t.Errorf("got %d more bytes, error %v; want the rest of %d", len(rest), err, len(layer)-150_000)
				}
			}
			s.awaitStored(string(d))
			s.load(lines...)
			s.get(blobPath("acme", "alpine", d), bearer(token)).content(t, layer).has(t, "Cache-Status", "dependency-proxy; hit")
			if counts := up.Counts(); counts.BlobGet != 1 {
				t.Errorf("got requests %+v, want one GET of the blob", counts)
			}
		})
	}
}

// TestStorageChangeDuringPull checks that a pull is completed even if a reload
// closes its cache.
func TestStorageChangeDuringPull(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 400_000)
	d := up.PutBlob("library/alpine", layer)
	lines := []string{users("alice"), private("acme", "alice"), hub(up)}
	s := start(t, lines...)
	release := up.StallBlobs(200_000)
	pull := s.open(blobPath("acme", "alpine", d), as("alice"))
	s.limits = "max_size 1GiB"
	s.load(lines...)
	release()
	s.finish(pull).content(t, layer)
	s.awaitStored(string(d))
	s.get(blobPath("acme", "alpine", d), as("alice")).content(t, layer).has(t, "Cache-Status", "dependency-proxy; hit")
}

// TestInvalidReload checks that a configuration that is refused changes
// nothing.
func TestInvalidReload(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", random(1, 300_000))
	lines := []string{users("alice"), private("acme", "alice"), hub(up)}
	s := start(t, lines...)
	token := s.token("alice")
	s.get(manifestPath("acme", "alpine", "3.20"), bearer(token)).expect(t, http.StatusOK, "")
	release := up.StallBlobs(100_000)
	pull := s.open(blobPath("acme", "alpine", image.Layers[0]), bearer(token))
	for what, bad := range map[string][]string{
		"nobody can ever pull":    {users("alice"), hub(up)},
		"EMPTY_PASSWORD":          {users("alice"), private("acme", "alice"), hub(up, "credentials hub {env.EMPTY_PASSWORD}")},
		"/no/such/file":           {users("alice"), private("acme", "alice"), hub(up, "credentials hub {file./no/such/file}")},
		"realm host":              {users("alice"), private("acme", "alice"), hub(up, "realm_hosts https://x/")}, // found last of all
		"group acme: upstream":    {users("alice"), hub(up), "group acme {\n members alice\n upstream docker.io {\n credentials hub {env.EMPTY_PASSWORD}\n }\n}"},
		"unrecognized":            {users("alice"), private("acme", "alice"), "nonsense"},
		"UnreachableModule":       {users("alice"), private("acme", "alice"), "directory UnreachableModule"},
		"cannot be kept from":     {users("alice"), private("acme", "alice"), "upstream docker.io {\n transport fastcgi\n}"},
		"neither bcrypt nor":      {"user alice plain", private("acme", "alice")},
		"make the cache director": nil,
	} {
		if bad == nil {
			bad, s.cache = lines, s.dir+"/caddy.log/cache" // below a file
		}
		err := s.tryLoad(bad...)
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got error %v, want %q", err, what)
		}
		s.cache = s.dir + "/cache"
		s.get(manifestPath("acme", "alpine", "3.20"), bearer(token)).expect(t, http.StatusOK, "").has(t, "Cache-Status", "dependency-proxy; hit")
	}
	release()
	s.finish(pull).content(t, random(1, 300_000))
	s.awaitStored(string(image.Layers[0]))
	if got := up.Counts(); got.BlobGet != 1 || got.ManifestGet != 1 || got.ManifestHead != 1 {
		t.Errorf("got requests %+v, want one GET of the blob, and one HEAD and one GET of the manifest", got)
	}
}

// TestSitesShareCache checks that two sites with one storage share one cache.
func TestSitesShareCache(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 400_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	s, host := newSite(t), porttest.Reserve(t)
	other := &site{t: t, url: "http://" + host, host: host}
	port := portOf(other.host)
	lines := []string{users("alice"), private("acme", "alice"), hub(up)}
	s.after = fmt.Sprintf("http://:%s {\n bind 127.0.0.1\n log\n dependency_proxy {\n storage filesystem %s {\n reserve off\n }\n %s\n }\n}", port, s.cache, strings.Join(lines, "\n"))
	s.load(lines...)
	concurrently(10, func(i int) {
		here := []*site{s, other}[i%2]
		here.get(manifestPath("acme", "alpine", "3.20"), as("alice")).content(t, up.RawManifest("library/alpine", image.Manifest))
		here.get(blobPath("acme", "alpine", image.Layers[0]), as("alice")).content(t, layer)
	})
	if counts := up.Counts(); counts.BlobGet != 1 || counts.ManifestGet > 2 || counts.ManifestHead > 2 {
		t.Errorf("got requests %+v, want one GET of the blob and at most two HEADs and GETs of the manifest", counts)
	}
	s.awaitStored(string(image.Layers[0]))
	// A token is valid only at the host that issued it.
	s.get("/v2/", bearer(s.token("alice"))).expect(t, http.StatusOK, "")
	token := other.token("alice")
	s.addSecrets(token)
	other.get("/v2/", bearer(token)).expect(t, http.StatusOK, "")
	s.get("/v2/", bearer(token)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	// One of the sites can go on alone.
	s.after = ""
	s.load(lines...)
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
}
