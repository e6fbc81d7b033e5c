package caddymodule

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
)

const (
	acmePath   = "/v2/acme/dependency_proxy/containers/"
	latestPath = "/manifests/latest"
)

// malformedPaths are paths by the code that refuses them, whoever sends them.
var malformedPaths = map[string][]string{
	"NAME_INVALID": {
		acmePath + "../alpine" + latestPath, acmePath + "a/../b" + latestPath, acmePath + "./alpine" + latestPath, acmePath + "alpine/." + latestPath,
		acmePath + "/alpine" + latestPath, acmePath + "a//b" + latestPath, acmePath + "alpine/" + latestPath, acmePath + latestPath[1:],
		acmePath + "a%2fb" + latestPath, acmePath + "a%2Fb" + latestPath, acmePath + "a%00" + latestPath, acmePath + "%61lpine" + latestPath, acmePath + "%2e%2e/x" + latestPath,
		acmePath + "a%5cb" + latestPath, acmePath + "a%20b" + latestPath, acmePath + "Alpine" + latestPath, acmePath + "alpi%C3%A9" + latestPath, acmePath + "-a" + latestPath,
		acmePath + "a-" + latestPath, acmePath + "a..b" + latestPath, acmePath + "a___b" + latestPath, acmePath + "_a" + latestPath, acmePath + "a:1" + latestPath,
		acmePath + strings.Repeat("a", 226) + latestPath, acmePath + strings.Repeat("a/", 120) + "a" + latestPath,
		acmePath + strings.Repeat("a", 256) + "/blobs/" + sitetest.ZeroDigest, acmePath + strings.Repeat("a", 5000) + "/tags/list",
		"/v2/" + strings.Repeat("a", 228) + infix + "a" + latestPath,
		"/v2" + infix + "alpine" + latestPath, "/v2/" + infix + "alpine" + latestPath, "/v2//acme" + infix + "alpine" + latestPath,
		"/v2/acme/" + infix + "alpine" + latestPath, "/v2/../acme" + infix + "alpine" + latestPath, "/v2/acme/.." + infix + "alpine" + latestPath,
		"/v2/ACME" + infix + "alpine" + latestPath, "/v2/acme%2fplatform" + infix + "alpine" + latestPath, "/v2/%61cme" + infix + "alpine" + latestPath,
		"/v2/acme%00" + infix + "alpine" + latestPath, "/v2/_" + infix + "alpine" + latestPath,
		infix + "v2/alpine" + latestPath, "/acme/" + infix + "v2/alpine" + latestPath, "/..%2facme" + infix + "v2/alpine" + latestPath,
		"/acme" + infix + "v2//alpine" + latestPath, "/acme" + infix + "v2/../alpine" + latestPath, "//acme" + infix + "v2/alpine" + latestPath,
	},
	"TAG_INVALID": {
		acmePath + "alpine/manifests/", acmePath + "alpine/manifests/.", acmePath + "alpine/manifests/..", acmePath + "alpine/manifests/.hidden",
		acmePath + "alpine/manifests/-x", acmePath + "alpine/manifests/a+b", acmePath + "alpine/manifests/a@b", acmePath + "alpine/manifests/a,b",
		acmePath + "alpine/manifests/" + strings.Repeat("a", 129), acmePath + "alpine/manifests/" + strings.Repeat("a", 5000),
	},
	"DIGEST_INVALID": {
		acmePath + "alpine/manifests/a%00", acmePath + "alpine/manifests/a%2fb", acmePath + "alpine/manifests/%2e%2e", acmePath + "alpine/manifests/a%20b",
		acmePath + "alpine/manifests/sha256:", acmePath + "alpine/manifests/sha256:ab", acmePath + "alpine/manifests/" + sitetest.ZeroDigest[:70],
		acmePath + "alpine/manifests/" + sitetest.ZeroDigest + "0", acmePath + "alpine/manifests/" + strings.ToUpper(sitetest.ZeroDigest),
		acmePath + "alpine/manifests/sha256:" + strings.Repeat("A", 64), acmePath + "alpine/manifests/sha256:" + strings.Repeat("g", 64),
		acmePath + "alpine/manifests/md5:" + strings.Repeat("0", 32), acmePath + "alpine/manifests/sha512:" + strings.Repeat("0", 64),
		acmePath + "alpine/manifests/sha256%3a" + strings.Repeat("0", 62) + "%3A", acmePath + "alpine/manifests/sha256%3A%3A" + strings.Repeat("0", 63),
		acmePath + "alpine/manifests/sha256%253A" + strings.Repeat("0", 64), acmePath + "alpine/manifests/%73ha256:" + strings.Repeat("0", 64),
		acmePath + "alpine/blobs/", acmePath + "alpine/blobs/latest", acmePath + "alpine/blobs/..", acmePath + "alpine/blobs/sha256:..%2f..%2fetc",
		acmePath + "alpine/blobs/sha256:%2e%2e", acmePath + "alpine/blobs/" + sitetest.ZeroDigest + "%00", acmePath + "alpine/referrers/latest", acmePath + "alpine/referrers/",
	},
}

// TestMalformedPaths checks that malformed paths in any encoding are refused
// before upstream, the disk or a directory is asked.
func TestMalformedPaths(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "latest", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	before := s.Stored()
	for code, paths := range malformedPaths {
		for _, path := range paths {
			for _, who := range []sitetest.RequestOption{sitetest.As("alice"), func(*http.Request) {}} {
				get := s.Get(path, who).Expect(t, http.StatusBadRequest, code)
				get.Has(t, "Content-Type", "application/json").Has(t, "WWW-Authenticate", "")
				get.Has(t, "Docker-Distribution-Api-Version", "registry/2.0")
				sitetest.SameHeaders(t, get, s.Head(path, who))
			}
		}
	}
	// Paths of no known form.
	for _, path := range []string{
		"/v2/..", "/v2/../", "/v2/%2e%2e/%2e%2e/etc/passwd", "/v2/..%2f..%2fetc%2fpasswd", "/v2//", "/v2/%00", "/v2/acme", acmePath + "..", acmePath + "%00",
		"/v2/acme%2fdependency_proxy%2fcontainers%2falpine/manifests/latest", "/v2/acme/dependency_proxy%2fcontainers/alpine" + latestPath,
		"/v2/acme/Dependency_Proxy/containers/alpine" + latestPath, acmePath + "alpine/Manifests/latest", acmePath + "alpine/manifests", acmePath + "alpine/tags/",
		acmePath + "alpine" + latestPath + "/", acmePath + "alpine/blobs/" + sitetest.ZeroDigest + "/..", "/acme" + infix + "v2/../..",
	} {
		s.Get(path).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		s.Get(path, sitetest.As("alice")).Expect(t, http.StatusNotFound, "NAME_UNKNOWN")
	}
	if counts := up.Counts(); counts != (registrytest.Counts{}) {
		t.Errorf("got requests %+v to upstream, want none", counts)
	}
	if after := s.Stored(); !slices.Equal(before, after) {
		t.Errorf("got the cache files %q, want %q as before", after, before)
	}
}

// TestLongestNames checks that names of the greatest permitted length are
// served.
func TestLongestNames(t *testing.T) {
	up := registrytest.New(t)
	long := strings.Repeat("a", maxName-len("acme")-len(infix)-2) + "/b"
	tag := strings.Repeat("T", 128)
	image := up.PutImage(long, tag, sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	s.Get(sitetest.ManifestPath("acme", long, tag), sitetest.As("alice")).Content(t, up.RawManifest(long, image.Manifest))
	s.Get(sitetest.BlobPath("acme", long, image.Layers[0]), sitetest.As("alice")).Content(t, sitetest.Random(1, 100))
	s.Get(sitetest.ManifestPath("acme", "a"+long, tag), sitetest.As("alice")).Expect(t, http.StatusBadRequest, "NAME_INVALID")
}

// TestRoutesAccepted checks that all forms of a path that mirrors send name the
// same content.
func TestRoutesAccepted(t *testing.T) {
	up, other := registrytest.New(t), registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	manifest := up.RawManifest("library/alpine", image.Manifest)
	app := other.PutImage("acme/app", "1", sitetest.Random(2, 100))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up), sitetest.UpstreamAt("ghcr.io", other.URL()))

	for _, path := range []string{
		acmePath + "alpine/manifests/3.20", acmePath + "library/alpine/manifests/3.20", acmePath + "docker.io/alpine/manifests/3.20",
		acmePath + "docker.io/library/alpine/manifests/3.20", "/acme" + infix + "v2/library/alpine/manifests/3.20",
		"/acme" + infix + "v2/docker.io/library/alpine/manifests/3.20",
		acmePath + "library/alpine/manifests/3.20?ns=docker.io", "/acme" + infix + "v2/library/alpine/manifests/3.20?ns=docker.io",
		acmePath + "library/alpine/manifests/3.20?ns=index.docker.io", "/acme" + infix + "v2/library/alpine/manifests/3.20?ns=registry-1.docker.io",
		acmePath + "alpine/manifests/3.20?ns=", acmePath + "alpine/manifests/3.20?foo=bar&ns=docker.io&foo", acmePath + "alpine/manifests/3.20?%zz;&=",
		acmePath + "alpine/manifests/sha256%3A" + image.Manifest.Encoded(), acmePath + "alpine/manifests/sha256%3a" + image.Manifest.Encoded(),
	} {
		s.Get(path, sitetest.As("alice")).Content(t, manifest)
	}
	for _, path := range []string{
		acmePath + "ghcr.io/acme/app/manifests/1", acmePath + "acme/app/manifests/1?ns=ghcr.io", acmePath + "ghcr.io/acme/app/manifests/1?ns=docker.io",
		"/acme" + infix + "v2/acme/app/manifests/1?ns=ghcr.io",
	} {
		s.Get(path, sitetest.As("alice")).Content(t, other.RawManifest("acme/app", app.Manifest))
	}
	// The image of the same name at another registry is not served.
	for _, ns := range []string{"quay.io", "registry.docker.io", "DOCKER.IO", "docker.io:443", "..", "127.0.0.1"} {
		s.Get(acmePath+"library/alpine/manifests/3.20?ns="+ns, sitetest.As("alice")).Expect(t, http.StatusNotFound, "NAME_UNKNOWN")
	}
	// A name that consists of an upstream only is an image of the first
	// upstream.
	s.Get(acmePath+"ghcr.io/manifests/1", sitetest.As("alice")).Expect(t, http.StatusNotFound, "NAME_UNKNOWN")
	for _, path := range []string{"/acme" + infix + "v2", "/acme" + infix + "v2/"} {
		s.Get(path, sitetest.As("alice")).Content(t, []byte("{}"))
		s.Get(path).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
}

// FuzzParseRoute checks that each part of a route that parseRoute returns is
// valid, whatever the path.
func FuzzParseRoute(f *testing.F) {
	for _, paths := range malformedPaths {
		for _, path := range paths {
			f.Add(path)
		}
	}
	for _, path := range []string{"/v2/", "/jwt/auth", acmePath + "alpine/manifests/3.20", acmePath + "a/b/blobs/" + sitetest.ZeroDigest, acmePath + "a/tags/list",
		acmePath + "a/referrers/sha256%3A" + sitetest.ZeroDigest[7:], "/a/b" + infix + "v2/c/manifests/d", "/index.html", acmePath + "a/blobs/uploads/"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		rt, err := parseRoute(path)
		if err != nil {
			if err.status != http.StatusBadRequest || err.message == "" || err.code == "" {
				t.Errorf("%q: got %d %q %q, want 400 with a code and a message", path, err.status, err.code, err.message)
			}
			return
		}
		if strings.HasPrefix(path, "/v2/") == (rt.kind == notOurs) && strings.HasPrefix(path, "/v2/") {
			t.Errorf("%q: got a path for the next handler, want one of the registry", path)
		}
		switch rt.kind {
		case manifestKind, blobKind, tagsKind, referrersKind:
		default:
			return
		}
		if !reference.ValidRepository(rt.group) || !reference.ValidRepository(rt.image) || len(rt.name()) > maxName {
			t.Errorf("%q: got group %q and image %q, want valid names", path, rt.group, rt.image)
		}
		_, derr := reference.ParseDigest(string(rt.digest))
		if named := rt.kind == manifestKind && reference.ValidTag(rt.tag) || derr == nil; named == (rt.kind == tagsKind) {
			t.Errorf("%q: got kind %d, tag %q and digest %q, want a valid tag or digest unless it is a list of tags", path, rt.kind, rt.tag, rt.digest)
		}
		rest := strings.NewReplacer("%3A", "", "%3a", "").Replace(path)
		if strings.Contains(rest, "%") || strings.Contains(path, "..") || strings.Contains(path, "//") || strings.ContainsRune(path, 0) {
			t.Errorf("%q: got the route %+v, want an error", path, rt)
		}
	})
}
