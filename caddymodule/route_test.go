package caddymodule

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
)

const (
	zeros  = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	ours   = "/v2/acme/dependency_proxy/containers/"
	latest = "/manifests/latest"
)

// malformed are paths by the code that refuses them, whoever asks.
var malformed = map[string][]string{
	"NAME_INVALID": {
		ours + "../alpine" + latest, ours + "a/../b" + latest, ours + "./alpine" + latest, ours + "alpine/." + latest,
		ours + "/alpine" + latest, ours + "a//b" + latest, ours + "alpine/" + latest, ours + latest[1:],
		ours + "a%2fb" + latest, ours + "a%2Fb" + latest, ours + "a%00" + latest, ours + "%61lpine" + latest, ours + "%2e%2e/x" + latest,
		ours + "a%5cb" + latest, ours + "a%20b" + latest, ours + "Alpine" + latest, ours + "alpi%C3%A9" + latest, ours + "-a" + latest,
		ours + "a-" + latest, ours + "a..b" + latest, ours + "a___b" + latest, ours + "_a" + latest, ours + "a:1" + latest,
		ours + strings.Repeat("a", 226) + latest, ours + strings.Repeat("a/", 120) + "a" + latest,
		ours + strings.Repeat("a", 256) + "/blobs/" + zeros, ours + strings.Repeat("a", 5000) + "/tags/list",
		"/v2/" + strings.Repeat("a", 228) + infix + "a" + latest,
		"/v2" + infix + "alpine" + latest, "/v2/" + infix + "alpine" + latest, "/v2//acme" + infix + "alpine" + latest,
		"/v2/acme/" + infix + "alpine" + latest, "/v2/../acme" + infix + "alpine" + latest, "/v2/acme/.." + infix + "alpine" + latest,
		"/v2/ACME" + infix + "alpine" + latest, "/v2/acme%2fplatform" + infix + "alpine" + latest, "/v2/%61cme" + infix + "alpine" + latest,
		"/v2/acme%00" + infix + "alpine" + latest, "/v2/_" + infix + "alpine" + latest,
		infix + "v2/alpine" + latest, "/acme/" + infix + "v2/alpine" + latest, "/..%2facme" + infix + "v2/alpine" + latest,
		"/acme" + infix + "v2//alpine" + latest, "/acme" + infix + "v2/../alpine" + latest, "//acme" + infix + "v2/alpine" + latest,
	},
	"TAG_INVALID": {
		ours + "alpine/manifests/", ours + "alpine/manifests/.", ours + "alpine/manifests/..", ours + "alpine/manifests/.hidden",
		ours + "alpine/manifests/-x", ours + "alpine/manifests/a+b", ours + "alpine/manifests/a@b", ours + "alpine/manifests/a,b",
		ours + "alpine/manifests/" + strings.Repeat("a", 129), ours + "alpine/manifests/" + strings.Repeat("a", 5000),
	},
	"DIGEST_INVALID": {
		ours + "alpine/manifests/a%00", ours + "alpine/manifests/a%2fb", ours + "alpine/manifests/%2e%2e", ours + "alpine/manifests/a%20b",
		ours + "alpine/manifests/sha256:", ours + "alpine/manifests/sha256:ab", ours + "alpine/manifests/" + zeros[:70],
		ours + "alpine/manifests/" + zeros + "0", ours + "alpine/manifests/" + strings.ToUpper(zeros),
		ours + "alpine/manifests/sha256:" + strings.Repeat("A", 64), ours + "alpine/manifests/sha256:" + strings.Repeat("g", 64),
		ours + "alpine/manifests/md5:" + strings.Repeat("0", 32), ours + "alpine/manifests/sha512:" + strings.Repeat("0", 64),
		ours + "alpine/manifests/sha256%3a" + strings.Repeat("0", 62) + "%3A", ours + "alpine/manifests/sha256%3A%3A" + strings.Repeat("0", 63),
		ours + "alpine/manifests/sha256%253A" + strings.Repeat("0", 64), ours + "alpine/manifests/%73ha256:" + strings.Repeat("0", 64),
		ours + "alpine/blobs/", ours + "alpine/blobs/latest", ours + "alpine/blobs/..", ours + "alpine/blobs/sha256:..%2f..%2fetc",
		ours + "alpine/blobs/sha256:%2e%2e", ours + "alpine/blobs/" + zeros + "%00", ours + "alpine/referrers/latest", ours + "alpine/referrers/",
	},
}

// TestMalformedPaths: they are refused before anybody is asked, upstream,
// disk or directory, and by whatever encoding.
func TestMalformedPaths(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "latest", random(1, 100))
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	before := s.stored()
	for code, paths := range malformed {
		for _, path := range paths {
			for _, who := range []with{as("alice"), func(*http.Request) {}} {
				get := s.get(path, who).expect(t, http.StatusBadRequest, code)
				get.has(t, "Content-Type", "application/json").has(t, "WWW-Authenticate", "")
				get.has(t, "Docker-Distribution-Api-Version", "registry/2.0")
				sameHeaders(t, get, s.head(path, who))
			}
		}
	}
	// Of no shape of ours: they could be known to nobody.
	for _, path := range []string{
		"/v2/..", "/v2/../", "/v2/%2e%2e/%2e%2e/etc/passwd", "/v2/..%2f..%2fetc%2fpasswd", "/v2//", "/v2/%00", "/v2/acme", ours + "..", ours + "%00",
		"/v2/acme%2fdependency_proxy%2fcontainers%2falpine/manifests/latest", "/v2/acme/dependency_proxy%2fcontainers/alpine" + latest,
		"/v2/acme/Dependency_Proxy/containers/alpine" + latest, ours + "alpine/Manifests/latest", ours + "alpine/manifests", ours + "alpine/tags/",
		ours + "alpine" + latest + "/", ours + "alpine/blobs/" + zeros + "/..", "/acme" + infix + "v2/../..",
	} {
		s.get(path).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		s.get(path, as("alice")).expect(t, http.StatusNotFound, "NAME_UNKNOWN")
	}
	if counts := up.Counts(); counts != (registrytest.Counts{}) {
		t.Errorf("upstream was asked: %+v", counts)
	}
	if after := s.stored(); !slices.Equal(before, after) {
		t.Errorf("the cache has become %q, was %q", after, before)
	}
}

// TestLongNames: names as long as clients make them are served.
func TestLongNames(t *testing.T) {
	up := registrytest.New(t)
	long := strings.Repeat("a", maxName-len("acme")-len(infix)-2) + "/b"
	tag := strings.Repeat("T", 128)
	image := up.PutImage(long, tag, random(1, 100))
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	s.get(manifestPath("acme", long, tag), as("alice")).content(t, up.RawManifest(long, image.Manifest))
	s.get(blobPath("acme", long, image.Layers[0]), as("alice")).content(t, random(1, 100))
	s.get(manifestPath("acme", "a"+long, tag), as("alice")).expect(t, http.StatusBadRequest, "NAME_INVALID")
}

// TestShapes: what mirrors make of our paths names the same content.
func TestShapes(t *testing.T) {
	up, other := registrytest.New(t), registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", random(1, 100))
	manifest := up.RawManifest("library/alpine", image.Manifest)
	app := other.PutImage("acme/app", "1", random(2, 100))
	s := start(t, users("alice"), private("acme", "alice"), hub(up), at("ghcr.io", other.URL()))

	for _, path := range []string{
		ours + "alpine/manifests/3.20", ours + "library/alpine/manifests/3.20", ours + "docker.io/alpine/manifests/3.20",
		ours + "docker.io/library/alpine/manifests/3.20", "/acme" + infix + "v2/library/alpine/manifests/3.20",
		"/acme" + infix + "v2/docker.io/library/alpine/manifests/3.20",
		ours + "library/alpine/manifests/3.20?ns=docker.io", "/acme" + infix + "v2/library/alpine/manifests/3.20?ns=docker.io",
		ours + "alpine/manifests/3.20?ns=", ours + "alpine/manifests/3.20?foo=bar&ns=docker.io&foo", ours + "alpine/manifests/3.20?%zz;&=",
		ours + "alpine/manifests/sha256%3A" + image.Manifest.Encoded(), ours + "alpine/manifests/sha256%3a" + image.Manifest.Encoded(),
	} {
		s.get(path, as("alice")).content(t, manifest)
	}
	for _, path := range []string{
		ours + "ghcr.io/acme/app/manifests/1", ours + "acme/app/manifests/1?ns=ghcr.io", ours + "ghcr.io/acme/app/manifests/1?ns=docker.io",
		"/acme" + infix + "v2/acme/app/manifests/1?ns=ghcr.io",
	} {
		s.get(path, as("alice")).content(t, other.RawManifest("acme/app", app.Manifest))
	}
	// Another registry's image of the same name would be the wrong one.
	for _, ns := range []string{"quay.io", "DOCKER.IO", "docker.io:443", "..", "127.0.0.1"} {
		s.get(ours+"library/alpine/manifests/3.20?ns="+ns, as("alice")).expect(t, http.StatusNotFound, "NAME_UNKNOWN")
	}
	// A name that is an upstream's and nothing else is an image of the first one.
	s.get(ours+"ghcr.io/manifests/1", as("alice")).expect(t, http.StatusNotFound, "NAME_UNKNOWN")
	for _, path := range []string{"/acme" + infix + "v2", "/acme" + infix + "v2/"} {
		s.get(path, as("alice")).content(t, []byte("{}"))
		s.get(path).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
}

// FuzzParseRoute: whatever the path, what is understood of it is valid.
func FuzzParseRoute(f *testing.F) {
	for _, paths := range malformed {
		for _, path := range paths {
			f.Add(path)
		}
	}
	for _, path := range []string{"/v2/", "/jwt/auth", ours + "alpine/manifests/3.20", ours + "a/b/blobs/" + zeros, ours + "a/tags/list",
		ours + "a/referrers/sha256%3A" + zeros[7:], "/a/b" + infix + "v2/c/manifests/d", "/index.html", ours + "a/blobs/uploads/"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		rt, err := parseRoute(path)
		if err != nil {
			if err.status != http.StatusBadRequest || err.message == "" || err.code == "" {
				t.Errorf("%q: %d %q %q", path, err.status, err.code, err.message)
			}
			return
		}
		if strings.HasPrefix(path, "/v2/") == (rt.kind == notOurs) && strings.HasPrefix(path, "/v2/") {
			t.Errorf("%q is under /v2/ and not ours", path)
		}
		switch rt.kind {
		case manifestKind, blobKind, tagsKind, referrersKind:
		default:
			return
		}
		if !reference.ValidRepository(rt.group) || !reference.ValidRepository(rt.image) || len(rt.name()) > maxName {
			t.Errorf("%q: group %q, image %q", path, rt.group, rt.image)
		}
		_, derr := reference.ParseDigest(string(rt.digest))
		if named := rt.kind == manifestKind && reference.ValidTag(rt.tag) || derr == nil; named == (rt.kind == tagsKind) {
			t.Errorf("%q: kind %d, tag %q, digest %q", path, rt.kind, rt.tag, rt.digest)
		}
		rest := strings.NewReplacer("%3A", "", "%3a", "").Replace(path)
		if strings.Contains(rest, "%") || strings.Contains(path, "..") || strings.Contains(path, "//") || strings.ContainsRune(path, 0) {
			t.Errorf("%q was understood as %+v", path, rt)
		}
	})
}
