package pull

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestPullResponse checks that the responses to manifests and blobs have the
// headers of the HTTP contract, from a cold and from a warm cache.
func TestPullResponse(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 100_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	manifest := up.RawManifest("library/alpine", image.Manifest)
	index := up.PutIndex("library/alpine", "multi", image)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	token := s.Token("alice")

	ours := func(path string) string { return "/v2/acme/dependency_proxy/containers/alpine/" + path }
	for _, row := range []struct {
		path, mediaType, digest string
		body                    []byte
	}{
		{ours("manifests/3.20"), v1.MediaTypeImageManifest, string(image.Manifest), manifest},
		{ours("manifests/" + string(image.Manifest)), v1.MediaTypeImageManifest, string(image.Manifest), manifest},
		{ours("manifests/multi"), v1.MediaTypeImageIndex, string(index), up.RawManifest("library/alpine", index)},
		{ours("blobs/" + string(image.Layers[0])), "application/octet-stream", string(image.Layers[0]), layer},
	} {
		cold := s.Get(row.path, sitetest.Bearer(token)).Content(t, row.body)
		s.AwaitStored(row.digest)
		warm := s.Get(row.path, sitetest.Bearer(token)).Content(t, row.body)
		head := s.Head(row.path, sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
		warm.Has(t, "Cache-Status", "dependency-proxy; hit")
		if row.path != ours("manifests/"+string(image.Manifest)) { // the request by tag has fetched it
			cold.Has(t, "Cache-Status", "dependency-proxy; fwd=miss")
		}
		for _, a := range []sitetest.Answer{cold, warm, head} {
			a.Has(t, "Content-Type", row.mediaType)
			a.Has(t, "Content-Length", strconv.Itoa(len(row.body)))
			a.Has(t, "Docker-Content-Digest", row.digest)
			a.Has(t, "ETag", `"`+row.digest+`"`)
			a.Has(t, "Cache-Control", "no-transform")
			a.Has(t, "Docker-Distribution-Api-Version", "registry/2.0")
			a.Has(t, "WWW-Authenticate", "")
		}
		sitetest.SameHeaders(t, warm, head)
	}
}

// TestUpstreamHeadersAreNotRelayed checks that only those headers of upstream
// reach the client that the contract names.
func TestUpstreamHeadersAreNotRelayed(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
	up.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		relation := "next"
		if strings.Contains(req.URL.Path, "/referrers/") {
			relation = "prev" // a next page that cannot be fetched is an error there
		}
		for name, value := range map[string]string{
			"Set-Cookie": "a=b", "WWW-Authenticate": `Bearer realm="https://evil.example/"`, "Expires": "0", "X-Evil": "1",
			"Link": `<https://evil.example/>; rel="` + relation + `"`, "Cache-Control": "max-age=1", "Age": "5", "Server": "evil", "ETag": `"evil"`,
			"Location": "https://evil.example/", "Access-Control-Allow-Origin": "*", "Last-Modified": "Mon, 02 Jan 2006 15:04:05 GMT",
		} {
			w.Header().Set(name, value)
		}
		return false
	})
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	known := "Cache-Control Cache-Status Content-Length Content-Type Date Docker-Content-Digest Docker-Distribution-Api-Version Etag Server Accept-Ranges"
	for _, path := range []string{
		sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.BlobPath("acme", "alpine", image.Layers[0]),
		"/v2/acme/dependency_proxy/containers/alpine/tags/list",
		"/v2/acme/dependency_proxy/containers/alpine/referrers/" + string(image.Manifest),
	} {
		a := s.Get(path, sitetest.As("alice")).Expect(t, http.StatusOK, "")
		for name, values := range a.Header {
			if !strings.Contains(" "+known+" ", " "+name+" ") || strings.Contains(strings.Join(values, " "), "evil") {
				t.Errorf("%s: got %s %q, want only headers of the contract", path, name, values)
			}
		}
		a.Has(t, "Cache-Control", "no-transform")
	}
}

// TestAPIVersionCheck checks that /v2/ tells clients that this is a registry
// and whether their login is valid.
func TestAPIVersionCheck(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"))
	challenge := `Bearer realm="` + s.URL + `/jwt/auth",service="dependency_proxy"`
	for _, path := range []string{"/v2/", "/v2", "/v2/?ns=docker.io&x=%zz;y"} {
		get := s.Get(path).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		get.Has(t, "WWW-Authenticate", challenge).Has(t, "Docker-Distribution-Api-Version", "registry/2.0")
		get.Has(t, "Content-Type", "application/json").Has(t, "Cache-Control", "no-transform")
		sitetest.SameHeaders(t, get, s.Head(path))

		get = s.Get(path, sitetest.Bearer(s.Token("alice"))).Content(t, []byte("{}"))
		get.Has(t, "Docker-Distribution-Api-Version", "registry/2.0").Has(t, "Content-Type", "application/json")
		get.Has(t, "Content-Length", "2").Has(t, "WWW-Authenticate", "")
		sitetest.SameHeaders(t, get, s.Head(path, sitetest.Bearer(s.Token("alice"))))
	}
}

// TestRegistryChallenge checks that each 401 below /v2/ contains everything
// that a client needs to log in, as many clients do not request /v2/ first.
func TestRegistryChallenge(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"))
	base := `Bearer realm="` + s.URL + `/jwt/auth",service="dependency_proxy"`
	scope := `,scope="repository:acme/platform/dependency_proxy/containers/library/alpine:pull"`
	digest := "sha256:" + strings.Repeat("0", 64)
	image := "/v2/acme/platform/dependency_proxy/containers/library/alpine"
	for path, want := range map[string]string{
		image + "/manifests/latest": base + scope, image + "/manifests/" + digest: base + scope,
		image + "/blobs/" + digest: base + scope, image + "/tags/list": base + scope, image + "/referrers/" + digest: base + scope,
		"/acme/platform/dependency_proxy/containers/v2/library/alpine/manifests/latest": base + scope,
		"/v2/_catalog": base, "/v2/library/alpine/manifests/latest": base,
	} {
		for changes, code := range map[string]string{
			"": "", "Basic " + "YWxpY2U6d3Jvbmc=": "", "Basic !": "", "Digest x": "",
			"Bearer": `,error="invalid_token"`, "Bearer a.b.c": `,error="invalid_token"`, "bearer x": `,error="invalid_token"`,
		} {
			a := s.Get(path, sitetest.Header("Authorization", changes)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
			a.Has(t, "WWW-Authenticate", want+code).Has(t, "Content-Type", "application/json")
			a.Has(t, "Docker-Distribution-Api-Version", "registry/2.0").Has(t, "Cache-Control", "no-transform")
		}
	}
}

// TestOtherPathsReachNextHandler checks that paths outside the registry are
// left to the site.
func TestOtherPathsReachNextHandler(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"))
	for _, path := range []string{
		"/", "/index.html", "/v1/", "/v22/", "/V2/", "/v2x", "//v2/", "/jwt", "/jwt/", "/jwt/auth/", "/jwt/keys/", "/jwt/authx",
		"/x/v2/", "/acme", "/acme/dependency_proxy/containers", "/acme/dependency_proxy/containers/v2x/y", "/acme/dependency_proxy/containers/v1/",
		"/%76%32/", "/x/../v2/",
	} {
		for _, verb := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
			a := s.Get(path, sitetest.Method(verb)).Content(t, []byte("next handler"))
			a.Has(t, "Docker-Distribution-Api-Version", "").Has(t, "WWW-Authenticate", "")
		}
	}
}

// TestPushIsRefused checks that requests that would change a registry are
// refused with 405 and no challenge, whoever sends them and whatever their
// path.
func TestPushIsRefused(t *testing.T) {
	up := registrytest.New(t)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	image := "/v2/acme/dependency_proxy/containers/alpine"
	for path, methods := range map[string]string{
		"/v2/": "POST PUT DELETE PATCH", "/v2/_catalog": "POST", "/v2/library/alpine/blobs/uploads/": "POST",
		image + "/blobs/uploads/": "POST", image + "/blobs/uploads/uuid-1": "PATCH PUT DELETE",
		image + "/blobs/uploads": "POST", image + "/blobs/uploads/?mount=sha256:x&from=y": "POST",
		image + "/manifests/latest": "PUT DELETE", image + "/manifests/BAD!": "PUT", image + "/blobs/sha256:bad": "DELETE",
		image + "/tags/list": "POST", "/v2/UPPER/dependency_proxy/containers/x/manifests/y": "PUT",
	} {
		for verb := range strings.FieldsSeq(methods) {
			for _, who := range []sitetest.RequestOption{sitetest.As("alice"), func(*http.Request) {}} {
				a := s.Get(path, sitetest.Method(verb), who).Expect(t, http.StatusMethodNotAllowed, "UNSUPPORTED")
				a.Has(t, "Allow", "GET, HEAD").Has(t, "WWW-Authenticate", "").Has(t, "Docker-Distribution-Api-Version", "registry/2.0")
			}
		}
	}
	for path, allow := range map[string]string{"/jwt/auth": "GET, POST", "/jwt/keys": "GET, HEAD"} {
		s.Get(path, sitetest.Method(http.MethodPut)).Expect(t, http.StatusMethodNotAllowed, "UNSUPPORTED").Has(t, "Allow", allow)
	}
	if counts := up.Counts(); counts != (registrytest.Counts{}) {
		t.Errorf("got requests %+v to upstream, want none", counts)
	}
}

// TestNotFound checks that what upstream does not have, or this registry
// itself, is answered with 404 and the code for its kind.
func TestNotFound(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	none := "sha256:" + strings.Repeat("0", 64)
	base := "/v2/acme/dependency_proxy/containers/"
	for path, code := range map[string]string{
		base + "alpine/manifests/none":     "MANIFEST_UNKNOWN",
		base + "alpine/manifests/" + none:  "MANIFEST_UNKNOWN",
		base + "alpine/blobs/" + none:      "BLOB_UNKNOWN",
		base + "none/tags/list":            "NAME_UNKNOWN",
		base + "none/blobs/" + none:        "NAME_UNKNOWN",
		base + "alpine":                    "NAME_UNKNOWN",
		base + "alpine/tags/other":         "NAME_UNKNOWN",
		base + "alpine/other/x":            "NAME_UNKNOWN",
		base:                               "NAME_UNKNOWN",
		"/v2/_catalog":                     "NAME_UNKNOWN",
		"/v2/library/alpine/manifests/3.2": "NAME_UNKNOWN",
	} {
		get := s.Get(path, sitetest.As("alice")).Expect(t, http.StatusNotFound, code)
		get.Has(t, "Content-Type", "application/json").Has(t, "Cache-Control", "no-transform").Has(t, "WWW-Authenticate", "")
		sitetest.SameStatus(t, get, s.Head(path, sitetest.As("alice")))
	}
	// Both the GET that decides and later trusted HEADs tell what is
	// missing.
	for range 2 {
		s.Get(base+"none/manifests/latest", sitetest.As("alice")).Expect(t, http.StatusNotFound, "NAME_UNKNOWN")
	}
}
