package pull

import (
	"io"
	"net/http"
	"slices"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestDigestGrantsNoAccess checks that content of one repository is not served
// as that of another one, even if it is cached.
func TestDigestGrantsNoAccess(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("team/secret", "1", sitetest.Random(1, 5000))
	up.PutImage("team/other", "1", sitetest.Random(2, 5000))
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.Private("red", "alice"), sitetest.Private("blue", "bob", "alice"), sitetest.Hub(up))
	sitetest.Pull(t, s, "red", "team/secret", "1", sitetest.As("alice"))

	for _, caller := range []struct{ group, name string }{{"blue", "bob"}, {"blue", "alice"}, {"red", "alice"}} {
		for _, change := range []sitetest.RequestOption{sitetest.Method(http.MethodGet), sitetest.Method(http.MethodHead), sitetest.Header("Range", "bytes=0-9")} {
			for _, d := range append(slices.Clone(image.Layers), image.Config) {
				a := s.Get(sitetest.BlobPath(caller.group, "team/other", d), sitetest.As(caller.name), change)
				a.Expect(t, http.StatusNotFound, "BLOB_UNKNOWN").Has(t, "Docker-Content-Digest", "")
			}
			a := s.Get(sitetest.ManifestPath(caller.group, "team/other", string(image.Manifest)), sitetest.As(caller.name), change)
			a.Expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN").Has(t, "Docker-Content-Digest", "")
			// A blob is not served as a manifest either.
			s.Get(sitetest.ManifestPath(caller.group, "team/secret", string(image.Layers[0])), sitetest.As(caller.name), change).Expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
			s.Get(sitetest.BlobPath(caller.group, "team/none", image.Layers[0]), sitetest.As(caller.name), change).Expect(t, http.StatusNotFound, "NAME_UNKNOWN")
		}
	}
	// A group whose repository has the content gets it from the cache.
	up.Reset()
	sitetest.Pull(t, s, "blue", "team/secret", "1", sitetest.As("bob"))
	if counts := up.Counts(); counts.BlobGet != 0 || counts.ManifestGet != 0 || counts.BlobBytes != 0 || counts.BlobHead != 2 || counts.ManifestHead != 1 {
		t.Errorf("got requests %+v for the second group, want 2 HEADs of blobs and 1 of the manifest", counts)
	}
	up.Reset()
	sitetest.Pull(t, s, "blue", "team/secret", "1", sitetest.As("bob"))
	if counts := up.Counts(); counts != (registrytest.Counts{}) {
		t.Errorf("got requests %+v for the next pull, want none", counts)
	}
}

// TestGroupCredentialsStayPrivate checks that content that a group reads with
// its own credentials at upstream is not served to others from the cache.
func TestGroupCredentialsStayPrivate(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword))
	image := up.PutImage("team/secret", "1", sitetest.Random(1, 5000))
	t.Setenv("HUB_PASSWORD", sitetest.UpstreamPassword)
	red := "group red {\n members alice\n upstream docker.io {\n credentials hub {env.HUB_PASSWORD}\n }\n}\n"
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), red, sitetest.Private("red/sub"), sitetest.Private("blue", "bob", "alice"), sitetest.Hub(up))
	sitetest.Pull(t, s, "red", "team/secret", "1", sitetest.As("alice"))
	sitetest.Pull(t, s, "red/sub", "team/secret", "1", sitetest.As("alice")) // with the login of the group above
	s.Get("/v2/red"+directory.Infix+"team/secret/tags/list", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	s.Get("/v2/red"+directory.Infix+"team/secret/referrers/"+string(image.Manifest), sitetest.As("alice")).Expect(t, http.StatusOK, "")

	for _, name := range []string{"alice", "bob"} {
		for _, path := range []string{
			sitetest.ManifestPath("blue", "team/secret", "1"), sitetest.ManifestPath("blue", "team/secret", string(image.Manifest)), sitetest.BlobPath("blue", "team/secret", image.Layers[0]),
			"/v2/blue" + directory.Infix + "team/secret/tags/list", "/v2/blue" + directory.Infix + "team/secret/referrers/" + string(image.Manifest),
		} {
			get := s.Get(path, sitetest.As(name)).Expect(t, http.StatusNotFound, "NAME_UNKNOWN").Has(t, "WWW-Authenticate", "")
			sitetest.SameStatus(t, get, s.Head(path, sitetest.As(name)))
		}
	}
}

// TestWrongGroupCredentials checks that wrong credentials of one group do not
// affect another one, even if both share a download.
func TestWrongGroupCredentials(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword))
	layer := sitetest.Random(1, 50_000)
	d := up.PutBlob("team/app", layer)
	t.Setenv("HUB_PASSWORD", sitetest.UpstreamPassword)
	t.Setenv("BAD_PASSWORD", "wrong-"+sitetest.UpstreamPassword)
	group := func(path, variable string) string {
		return "group " + path + " {\n members alice\n upstream docker.io {\n credentials hub {env." + variable + "}\n }\n}\n"
	}
	s := sitetest.Start(t, sitetest.Users("alice"), group("good", "HUB_PASSWORD"), group("bad", "BAD_PASSWORD"), sitetest.Hub(up))
	sitetest.Concurrently(20, func(i int) {
		if i%2 == 0 {
			s.Get(sitetest.BlobPath("good", "team/app", d), sitetest.As("alice")).Content(t, layer)
			return
		}
		s.Get(sitetest.BlobPath("bad", "team/app", d), sitetest.As("alice")).Expect(t, http.StatusBadGateway, "UNAVAILABLE")
	})
}

// TestDownloadSharedBetweenGroups checks that a group shares a running download
// of another group only if upstream confirms the blob for its own repository.
func TestDownloadSharedBetweenGroups(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 200_000)
	d := up.PutBlob("team/secret", layer)
	up.PutImage("team/other", "1", sitetest.Random(2, 100))
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.Private("red", "alice"), sitetest.Private("blue", "bob"), sitetest.Hub(up))
	release := up.StallBlobs(100_000)
	first := s.Open(sitetest.BlobPath("red", "team/secret", d), sitetest.As("alice"))
	if _, err := io.ReadFull(first.Body, make([]byte, 99_000)); err != nil {
		t.Fatal(err)
	}
	s.Get(sitetest.BlobPath("blue", "team/other", d), sitetest.As("bob")).Expect(t, http.StatusNotFound, "BLOB_UNKNOWN")
	up.Fail(registrytest.Failure{Op: registrytest.OpBlob, Method: http.MethodHead, Status: http.StatusServiceUnavailable, Times: 1})
	s.Get(sitetest.BlobPath("blue", "team/secret", d), sitetest.As("bob")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")

	second := s.Open(sitetest.BlobPath("blue", "team/secret", d), sitetest.As("bob"))
	if _, err := io.ReadFull(second.Body, make([]byte, 99_000)); err != nil {
		t.Fatal(err)
	}
	part := s.Get(sitetest.BlobPath("blue", "team/secret", d), sitetest.As("bob"), sitetest.Header("Range", "bytes=10-19")).Expect(t, http.StatusPartialContent, "")
	if string(part.Data) != string(layer[10:20]) {
		t.Errorf("got the range %q, want %q", part.Data, layer[10:20])
	}
	release()
	for _, r := range []*http.Response{first, second} {
		if rest, err := io.ReadAll(r.Body); err != nil || string(rest) != string(layer[99_000:]) {
			t.Errorf("got %d more bytes, error %v; want the rest of %d", len(rest), err, len(layer)-99_000)
		}
	}
	sitetest.Answer{Response: second}.Has(t, "Cache-Status", "dependency-proxy; fwd=miss; collapsed")
	if counts := up.Counts(); counts.BlobGet != 2 || counts.BlobBytes != int64(len(layer)) {
		// One GET was to confirm the absence that HEAD had reported.
		t.Errorf("got requests %+v, want 2 GETs and the blob once", counts)
	}
	s.AwaitStored(string(d))
}

// TestUnconfirmedContentIsRefused checks that content of another group is not
// served unless upstream confirms it. Absent tags are not remembered, so that the rows do
// not depend on their order.
func TestUnconfirmedContentIsRefused(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("team/app", "1", sitetest.Random(1, 5000))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("red", "alice"), sitetest.Private("blue", "alice"), sitetest.Hub(up, "absent_for off"))
	sitetest.Pull(t, s, "red", "team/app", "1", sitetest.As("alice"))
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
		for _, change := range []sitetest.RequestOption{sitetest.Method(http.MethodGet), sitetest.Method(http.MethodHead), sitetest.Header("Range", "bytes=0-9"), sitetest.Header("If-None-Match", "*")} {
			for _, path := range []string{
				sitetest.ManifestPath("blue", "team/app", "1"), sitetest.ManifestPath("blue", "team/app", string(image.Manifest)), sitetest.BlobPath("blue", "team/app", image.Layers[0]),
			} {
				a := s.Get(path, sitetest.As("alice"), change)
				if a.StatusCode != row.status || a.Header.Get("Docker-Content-Digest") != "" {
					t.Errorf("%s: %s %s: got %d with %d bytes, want %d without a digest", name, a.Request.Method, path, a.StatusCode, len(a.Data), row.status)
				}
			}
		}
		up.Heal()
	}
	sitetest.Pull(t, s, "blue", "team/app", "1", sitetest.As("alice"))
}

// TestUpstreamLoginsAreSeparate checks that what upstream has confirmed to one
// login is not used for another login, of a former configuration or of a site
// on the same storage.
func TestUpstreamLoginsAreSeparate(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword))
	image := up.PutImage("team/secret", "1", sitetest.Random(1, 5000))
	t.Setenv("HUB_PASSWORD", sitetest.UpstreamPassword)
	t.Setenv("OTHER_PASSWORD", "other")
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("red", "alice"), sitetest.Hub(up, "credentials hub {env.HUB_PASSWORD}"))
	sitetest.Pull(t, s, "red", "team/secret", "1", sitetest.As("alice"))
	blob, tag := sitetest.BlobPath("red", "team/secret", image.Layers[0]), sitetest.ManifestPath("red", "team/secret", "1")

	s.Load(sitetest.Users("alice"), sitetest.Private("red", "alice"), sitetest.Hub(up, "credentials other {env.OTHER_PASSWORD}"))
	for _, path := range []string{blob, tag, sitetest.ManifestPath("red", "team/secret", string(image.Manifest))} {
		s.Get(path, sitetest.As("alice")).Expect(t, http.StatusBadGateway, "UNAVAILABLE")
		s.Head(path, sitetest.As("alice")).Expect(t, http.StatusBadGateway, "UNAVAILABLE")
	}
	s.Load(sitetest.Users("alice"), sitetest.Private("red", "alice"), sitetest.Hub(up, "credentials hub {env.HUB_PASSWORD}"))
	up.Reset()
	sitetest.Pull(t, s, "red", "team/secret", "1", sitetest.As("alice"))
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
	layer := sitetest.Random(1, 200_000)
	d := up.PutBlob("team/app", layer)
	late := up.PutBlob("team/app", sitetest.Random(2, 200_000))
	up.PutBlob("team/copy", layer)
	up.PutBlob("team/copy", sitetest.Random(2, 200_000))
	t.Setenv("HUB_PASSWORD", sitetest.UpstreamPassword)
	red := "group red {\n members alice\n upstream docker.io {\n credentials hub {env.HUB_PASSWORD}\n }\n}\n"
	s := sitetest.Start(t, sitetest.Users("alice"), red, sitetest.Private("blue", "alice"), sitetest.Hub(up))
	for i, group := range []string{"red", "blue"} {
		s.Get(sitetest.BlobPath(group, "team/app", d), sitetest.As("alice")).Content(t, layer)
		s.AwaitStored(string(d))
		sitetest.ExpectRequests(t, up, group+"'s first pull", registrytest.Counts{Ping: 1 - i, BlobGet: 1}) // red's login is preceded by GET /v2/
		sitetest.Eventually(t, "the delivery is recorded", func() bool {
			return s.Head(sitetest.BlobPath(group, "team/app", d), sitetest.As("alice")).Header.Get("Cache-Status") == "dependency-proxy; hit"
		})
		up.Reset()
		s.Get(sitetest.BlobPath(group, "team/copy", d), sitetest.As("alice")).Content(t, layer)
		sitetest.ExpectRequests(t, up, group+"'s other repository", registrytest.Counts{BlobHead: 1})
	}
	release := up.StallBlobs(100_000)
	first := s.Open(sitetest.BlobPath("red", "team/app", late), sitetest.As("alice"))
	second := s.Open(sitetest.BlobPath("blue", "team/app", late), sitetest.As("alice"))
	release()
	for _, r := range []*http.Response{first, second} {
		s.Finish(r).Content(t, sitetest.Random(2, 200_000))
	}
	sitetest.ExpectRequests(t, up, "a shared download", registrytest.Counts{BlobHead: 1, BlobGet: 1})
	s.AwaitStored(string(late))
	for _, group := range []string{"red", "blue"} {
		s.Get(sitetest.BlobPath(group, "team/copy", late), sitetest.As("alice")).Content(t, sitetest.Random(2, 200_000))
	}
	sitetest.ExpectRequests(t, up, "other repositories of both logins", registrytest.Counts{BlobHead: 2})
}
