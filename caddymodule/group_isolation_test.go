package caddymodule

import (
	"io"
	"net/http"
	"slices"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestDigestGrantsNoAccess checks that content of one repository is not served
// as that of another one, even if it is cached.
func TestDigestGrantsNoAccess(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("team/secret", "1", random(1, 5000))
	up.PutImage("team/other", "1", random(2, 5000))
	s := start(t, users("alice", "bob"), private("red", "alice"), private("blue", "bob", "alice"), hub(up))
	pull(t, s, "red", "team/secret", "1", as("alice"))

	for _, caller := range []struct{ group, name string }{{"blue", "bob"}, {"blue", "alice"}, {"red", "alice"}} {
		for _, change := range []requestOption{method(http.MethodGet), method(http.MethodHead), header("Range", "bytes=0-9")} {
			for _, d := range append(slices.Clone(image.Layers), image.Config) {
				a := s.get(blobPath(caller.group, "team/other", d), as(caller.name), change)
				a.expect(t, http.StatusNotFound, "BLOB_UNKNOWN").has(t, "Docker-Content-Digest", "")
			}
			a := s.get(manifestPath(caller.group, "team/other", string(image.Manifest)), as(caller.name), change)
			a.expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN").has(t, "Docker-Content-Digest", "")
			// A blob is not served as a manifest either.
			s.get(manifestPath(caller.group, "team/secret", string(image.Layers[0])), as(caller.name), change).expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
			s.get(blobPath(caller.group, "team/none", image.Layers[0]), as(caller.name), change).expect(t, http.StatusNotFound, "NAME_UNKNOWN")
		}
	}
	// A group whose repository has the content gets it from the cache.
	up.Reset()
	pull(t, s, "blue", "team/secret", "1", as("bob"))
	if counts := up.Counts(); counts.BlobGet != 0 || counts.ManifestGet != 0 || counts.BlobBytes != 0 || counts.BlobHead != 2 || counts.ManifestHead != 1 {
		t.Errorf("got requests %+v for the second group, want 2 HEADs of blobs and 1 of the manifest", counts)
	}
	up.Reset()
	pull(t, s, "blue", "team/secret", "1", as("bob"))
	if counts := up.Counts(); counts != (registrytest.Counts{}) {
		t.Errorf("got requests %+v for the next pull, want none", counts)
	}
}

// TestGroupCredentialsStayPrivate checks that content that a group reads with
// its own credentials at upstream is not served to others from the cache.
func TestGroupCredentialsStayPrivate(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", upstreamPassword))
	image := up.PutImage("team/secret", "1", random(1, 5000))
	t.Setenv("HUB_PASSWORD", upstreamPassword)
	red := "group red {\n members alice\n upstream docker.io {\n credentials hub {env.HUB_PASSWORD}\n }\n}\n"
	s := start(t, users("alice", "bob"), red, private("red/sub"), private("blue", "bob", "alice"), hub(up))
	pull(t, s, "red", "team/secret", "1", as("alice"))
	pull(t, s, "red/sub", "team/secret", "1", as("alice")) // with the login of the group above
	s.get("/v2/red"+infix+"team/secret/tags/list", as("alice")).expect(t, http.StatusOK, "")
	s.get("/v2/red"+infix+"team/secret/referrers/"+string(image.Manifest), as("alice")).expect(t, http.StatusOK, "")

	for _, name := range []string{"alice", "bob"} {
		for _, path := range []string{
			manifestPath("blue", "team/secret", "1"), manifestPath("blue", "team/secret", string(image.Manifest)), blobPath("blue", "team/secret", image.Layers[0]),
			"/v2/blue" + infix + "team/secret/tags/list", "/v2/blue" + infix + "team/secret/referrers/" + string(image.Manifest),
		} {
			get := s.get(path, as(name)).expect(t, http.StatusNotFound, "NAME_UNKNOWN").has(t, "WWW-Authenticate", "")
			sameStatus(t, get, s.head(path, as(name)))
		}
	}
}

// TestWrongGroupCredentials checks that wrong credentials of one group do not
// affect another one, even if both share a download.
func TestWrongGroupCredentials(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", upstreamPassword))
	layer := random(1, 50_000)
	d := up.PutBlob("team/app", layer)
	t.Setenv("HUB_PASSWORD", upstreamPassword)
	t.Setenv("BAD_PASSWORD", "wrong-"+upstreamPassword)
	group := func(path, variable string) string {
		return "group " + path + " {\n members alice\n upstream docker.io {\n credentials hub {env." + variable + "}\n }\n}\n"
	}
	s := start(t, users("alice"), group("good", "HUB_PASSWORD"), group("bad", "BAD_PASSWORD"), hub(up))
	concurrently(20, func(i int) {
		if i%2 == 0 {
			s.get(blobPath("good", "team/app", d), as("alice")).content(t, layer)
			return
		}
		s.get(blobPath("bad", "team/app", d), as("alice")).expect(t, http.StatusBadGateway, "UNAVAILABLE")
	})
}

// TestDownloadSharedBetweenGroups checks that a group shares a running download
// of another group only if upstream confirms the blob for its own repository.
func TestDownloadSharedBetweenGroups(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 200_000)
	d := up.PutBlob("team/secret", layer)
	up.PutImage("team/other", "1", random(2, 100))
	s := start(t, users("alice", "bob"), private("red", "alice"), private("blue", "bob"), hub(up))
	release := up.StallBlobs(100_000)
	first := s.open(blobPath("red", "team/secret", d), as("alice"))
	if _, err := io.ReadFull(first.Body, make([]byte, 99_000)); err != nil {
		t.Fatal(err)
	}
	s.get(blobPath("blue", "team/other", d), as("bob")).expect(t, http.StatusNotFound, "BLOB_UNKNOWN")
	up.Fail(registrytest.Failure{Op: registrytest.OpBlob, Method: http.MethodHead, Status: http.StatusServiceUnavailable, Times: 1})
	s.get(blobPath("blue", "team/secret", d), as("bob")).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")

	second := s.open(blobPath("blue", "team/secret", d), as("bob"))
	if _, err := io.ReadFull(second.Body, make([]byte, 99_000)); err != nil {
		t.Fatal(err)
	}
	part := s.get(blobPath("blue", "team/secret", d), as("bob"), header("Range", "bytes=10-19")).expect(t, http.StatusPartialContent, "")
	if string(part.body) != string(layer[10:20]) {
		t.Errorf("got the range %q, want %q", part.body, layer[10:20])
	}
	release()
	for _, r := range []*http.Response{first, second} {
		if rest, err := io.ReadAll(r.Body); err != nil || string(rest) != string(layer[99_000:]) {
			t.Errorf("got %d more bytes, error %v; want the rest of %d", len(rest), err, len(layer)-99_000)
		}
	}
	answer{Response: second}.has(t, "Cache-Status", "dependency-proxy; fwd=miss; collapsed")
	if counts := up.Counts(); counts.BlobGet != 2 || counts.BlobBytes != int64(len(layer)) {
		// One GET was to confirm the absence that HEAD had reported.
		t.Errorf("got requests %+v, want 2 GETs and the blob once", counts)
	}
	s.awaitStored(string(d))
}

// TestUnconfirmedContentIsRefused checks that content of another group is not
// served unless upstream confirms it. Absent tags are not remembered, so that the rows do
// not depend on their order.
func TestUnconfirmedContentIsRefused(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("team/app", "1", random(1, 5000))
	s := start(t, users("alice"), private("red", "alice"), private("blue", "alice"), hub(up, "absent_for off"))
	pull(t, s, "red", "team/app", "1", as("alice"))
	for name, row := range map[string]struct {
		failure registrytest.Failure
		status  int
	}{
		"trouble":  {registrytest.Failure{Status: 500}, 503},
		"denied":   {registrytest.Failure{Status: 403}, 404},
		"nonsense": {registrytest.Failure{Status: 302}, 502},
		"nothing":  {registrytest.Failure{Status: 404}, 404},
	} {
		up.Fail(row.failure)
		for _, change := range []requestOption{method(http.MethodGet), method(http.MethodHead), header("Range", "bytes=0-9"), header("If-None-Match", "*")} {
			for _, path := range []string{
				manifestPath("blue", "team/app", "1"), manifestPath("blue", "team/app", string(image.Manifest)), blobPath("blue", "team/app", image.Layers[0]),
			} {
				a := s.get(path, as("alice"), change)
				if a.StatusCode != row.status || a.Header.Get("Docker-Content-Digest") != "" {
					t.Errorf("%s: %s %s: got %d with %d bytes, want %d without a digest", name, a.Request.Method, path, a.StatusCode, len(a.body), row.status)
				}
			}
		}
		up.Heal()
	}
	pull(t, s, "blue", "team/app", "1", as("alice"))
}

// TestUpstreamLoginsAreSeparate checks that what upstream has confirmed to one
// login is not used for another login, of a former configuration or of a site
// on the same storage.
func TestUpstreamLoginsAreSeparate(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", upstreamPassword))
	image := up.PutImage("team/secret", "1", random(1, 5000))
	t.Setenv("HUB_PASSWORD", upstreamPassword)
	t.Setenv("OTHER_PASSWORD", "other")
	s := start(t, users("alice"), private("red", "alice"), hub(up, "credentials hub {env.HUB_PASSWORD}"))
	pull(t, s, "red", "team/secret", "1", as("alice"))
	blob, tag := blobPath("red", "team/secret", image.Layers[0]), manifestPath("red", "team/secret", "1")

	s.load(users("alice"), private("red", "alice"), hub(up, "credentials other {env.OTHER_PASSWORD}"))
	for _, path := range []string{blob, tag, manifestPath("red", "team/secret", string(image.Manifest))} {
		s.get(path, as("alice")).expect(t, http.StatusBadGateway, "UNAVAILABLE")
		s.head(path, as("alice")).expect(t, http.StatusBadGateway, "UNAVAILABLE")
	}
	s.load(users("alice"), private("red", "alice"), hub(up, "credentials hub {env.HUB_PASSWORD}"))
	up.Reset()
	pull(t, s, "red", "team/secret", "1", as("alice"))
	if counts := up.Counts(); counts != (registrytest.Counts{}) {
		t.Errorf("got requests %+v for the first login, want none", counts)
	}
}

// TestUpstreamLoginsDownloadSeparately checks that each login downloads a blob
// itself, once, and that a HEAD is enough afterwards for its other
// repositories. Logins share a running download if upstream confirms the blob
// to each.
func TestUpstreamLoginsDownloadSeparately(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 200_000)
	d := up.PutBlob("team/app", layer)
	late := up.PutBlob("team/app", random(2, 200_000))
	up.PutBlob("team/copy", layer)
	up.PutBlob("team/copy", random(2, 200_000))
	t.Setenv("HUB_PASSWORD", upstreamPassword)
	red := "group red {\n members alice\n upstream docker.io {\n credentials hub {env.HUB_PASSWORD}\n }\n}\n"
	s := start(t, users("alice"), red, private("blue", "alice"), hub(up))
	for i, group := range []string{"red", "blue"} {
		s.get(blobPath(group, "team/app", d), as("alice")).content(t, layer)
		s.awaitStored(string(d))
		expectRequests(t, up, group+"'s first pull", registrytest.Counts{Ping: 1 - i, BlobGet: 1}) // red's login is preceded by GET /v2/
		eventually(t, "the delivery is recorded", func() bool {
			return s.head(blobPath(group, "team/app", d), as("alice")).Header.Get("Cache-Status") == "dependency-proxy; hit"
		})
		up.Reset()
		s.get(blobPath(group, "team/copy", d), as("alice")).content(t, layer)
		expectRequests(t, up, group+"'s other repository", registrytest.Counts{BlobHead: 1})
	}
	release := up.StallBlobs(100_000)
	first := s.open(blobPath("red", "team/app", late), as("alice"))
	second := s.open(blobPath("blue", "team/app", late), as("alice"))
	release()
	for _, r := range []*http.Response{first, second} {
		s.finish(r).content(t, random(2, 200_000))
	}
	expectRequests(t, up, "a shared download", registrytest.Counts{BlobHead: 1, BlobGet: 1})
	s.awaitStored(string(late))
	for _, group := range []string{"red", "blue"} {
		s.get(blobPath(group, "team/copy", late), as("alice")).content(t, random(2, 200_000))
	}
	expectRequests(t, up, "other repositories of both logins", registrytest.Counts{BlobHead: 2})
}
