package caddymodule

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestCacheStatus checks that the admin API and the command report what groups
// have stored and which downloads are running.
func TestCacheStatus(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 2000))
	slow := up.PutBlob("library/alpine", sitetest.Random(2, 300_000))
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice"), "group acme {\n owners alice\n quota 1MiB\n}\n", sitetest.Private("other", "alice"), sitetest.Hub(up), "admins alice")
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	sitetest.Pull(t, s, "other", "alpine", "3.20", sitetest.As("alice"))
	s.Get("/other/dependency_proxy/cache", sitetest.Method(http.MethodDelete), sitetest.As("alice")) // measures all groups
	release := up.StallBlobs(1000)
	defer release()
	body := s.Open(sitetest.BlobPath("acme", "alpine", slow), sitetest.As("alice")).Body
	defer body.Close()
	var all admin.CacheList
	sitetest.Eventually(t, "the groups are measured and the fill is seen", func() bool {
		a := s.Ask("GET", sitetest.AdminCacheStatus, "").Expect(t, http.StatusOK, "")
		if err := json.Unmarshal(a.Data, &all); err != nil || len(all.Caches) != 1 {
			t.Fatalf("got %s, error %v; want one cache", a.Data, err)
		}
		return all.Caches[0].Groups["acme"].Blobs >= 3 && len(all.Caches[0].Fills) == 1 && all.Caches[0].Fills[0].Written >= 1000
	})
	c := all.Caches[0]
	if f := c.Fills[0]; f.Digest != string(slow) || f.Size != 300_000 || f.Readers != 1 || f.Since.IsZero() || c.Groups["acme"].Quota != 1<<20 || c.Storage != "filesystem "+s.Cache {
		t.Errorf("got %+v, want the fill of %s with one reader, the quota and the storage", c, slow)
	}
	table := s.MustCommand("cache", "status")
	for _, what := range []string{"acme", "1.0 MiB", "DOWNLOAD", string(slow), "293 KiB"} {
		if !strings.Contains(table, what) {
			t.Errorf("the table lacks %q:\n%s", what, table)
		}
	}
	s.Ask("GET", sitetest.AdminCacheStatus+"?x=1", "").Expect(t, http.StatusBadRequest, "")
	s.Ask("DELETE", sitetest.AdminCacheStatus, "").Expect(t, http.StatusMethodNotAllowed, "")
}

// TestScrubCommand checks that scrubbing finds and removes a blob that was
// damaged on disk, so that the next pull is right.
func TestScrubCommand(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 5000))
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	if out, err := s.Command("cache", "scrub"); err != nil || !strings.Contains(out, "3 blobs") || !strings.Contains(out, "0 damaged") {
		t.Errorf("got error %v and %s, want 3 blobs and none damaged", err, out)
	}
	file, err := os.OpenFile(s.BlobFile(image.Layers[0]), os.O_RDWR, 0)
	if err == nil {
		_, err = file.WriteAt([]byte("flipped"), 2000)
		_ = file.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Command("cache", "scrub", "--rate", "100MiB")
	if err == nil || !strings.Contains(out, "1 damaged, 1 of them dropped") {
		t.Errorf("got error %v and %s, want an error and one blob dropped", err, out)
	}
	if s.IsStored(image.Layers[0]) {
		t.Error("the damaged blob is still stored")
	}
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	for _, rate := range []string{"x", "0", "-1"} {
		if _, err := s.Command("cache", "scrub", "--rate="+rate); err == nil {
			t.Errorf("got no error for the rate %s, want one", rate)
		}
	}
	s.Ask("POST", sitetest.AdminCacheScrub, `{"rate":-1}`).Expect(t, http.StatusBadRequest, "")
	s.Ask("POST", sitetest.AdminCacheScrub, `{"else":1}`).Expect(t, http.StatusBadRequest, "")
}

// TestWarmCommand checks that images are pulled through the cache for their groups,
// with their limits, and that the command tells which ones failed.
func TestWarmCommand(t *testing.T) {
	up := registrytest.New(t)
	amd, arm := up.PutImage("library/alpine", "", sitetest.Random(1, 2000)), up.PutImage("library/alpine", "", sitetest.Random(2, 3000))
	up.PutIndex("library/alpine", "3.20", amd, arm)
	app := up.PutImage("team/app", "1", sitetest.Random(3, 4000))
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice"), "group acme {\n members alice\n deny docker.io/secret/**\n}\n", sitetest.Private("acme/sub", "alice"), sitetest.Hub(up))
	out := s.MustCommand("cache", "warm", "--platform", "linux/amd64", "acme/alpine:3.20", s.Host+"/acme/sub/dependency_proxy/containers/team/app@"+string(app.Manifest))
	for _, want := range []string{"acme/alpine:3.20: 2 manifests, 2 blobs, 2.1 KiB, 2.1 KiB of it fetched", "2 images, 0 failed: 3 manifests, 4 blobs"} {
		if !strings.Contains(out, want) {
			t.Errorf("got %s, want a line with %q", out, want)
		}
	}
	if !s.IsStored(amd.Layers[0]) || s.IsStored(arm.Layers[0]) || !s.IsStored(app.Layers[0]) {
		t.Error("the cache has other images than those that were asked for")
	}
	up.Reset()
	sitetest.Pull(t, s, "acme/sub", "team/app", "1", sitetest.As("alice"))
	sitetest.ExpectRequests(t, up, "a pull of what is warm", registrytest.Counts{ManifestHead: 1}) // the tag was not asked about

	s.Stdin = "# a list\n\nacme/alpine:3.20\nacme/secret/x:1\nother/alpine:3.20\nacme/none:1\n alone\n"
	stdout, _, err := s.CommandOutputs("cache", "warm", "-")
	if err == nil || err.Error() != "4 of 5 images could not be pulled" {
		t.Errorf("got error %v, want one that counts the images", err)
	}
	for _, want := range []string{
		"acme/alpine:3.20: 3 manifests, 4 blobs", "acme/secret/x:1: failed: ", "the limits of the group exclude it: group acme: deny docker.io/secret/**",
		"no group of a running site has 'other/alpine:3.20'", "acme/none:1: failed: ", "the image has no group", "5 images, 4 failed: ",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("got %s, want a line with %q", stdout, want)
		}
	}
	stdout, _, err = s.CommandOutputs("cache", "warm", "--json", "acme/alpine:3.20")
	var state admin.WarmState
	if jerr := json.Unmarshal([]byte(stdout), &state); err != nil || jerr != nil || !state.Done || state.Blobs != 4 || state.Fetched != 0 {
		t.Errorf("got error %v and %s, want the final state with 4 blobs", err, stdout)
	}
	for _, args := range [][]string{{}, {"--parallel", "9", "acme/alpine"}, {"--parallel", "0", "acme/alpine"}, {"--platform", "", "acme/alpine"}, {"--platform", "linux", "acme/alpine"}} {
		if _, err := s.Command(append([]string{"cache", "warm"}, args...)...); err == nil {
			t.Errorf("%q: got no error, want one", args)
		}
	}
	s.Stdin = ""
	if out, err := s.Command("cache", "warm", "-"); err == nil {
		t.Errorf("an empty list: got no error and %s, want one", out)
	}
	s.Ask("POST", "/dependency_proxy/cache/warm", `{"image":"acme/alpine","site":"none"}`).Expect(t, http.StatusNotFound, "")
	s.Ask("POST", "/dependency_proxy/cache/warm", `{"image":"acme/alpine","platforms":["x"]}`).Expect(t, http.StatusBadRequest, "")
}

// TestWarmDuringReload checks that a reload neither ends nor spoils the pull of an image.
func TestWarmDuringReload(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 300_000))
	up.PutImage("library/alpine", "3.21", sitetest.Random(2, 300_000))
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up)}
	s := sitetest.StartWithAdmin(t, lines...)
	release := up.StallBlobs(100_000)
	defer release()
	s.Stdin = "acme/alpine:3.20\nacme/alpine:3.21\n"
	type result struct {
		out string
		err error
	}
	ended := make(chan result, 1)
	go func() {
		out, err := s.Command("cache", "warm", "--parallel", "1", "-")
		ended <- result{out, err}
	}()
	sitetest.Eventually(t, "the download has begun", func() bool { return len(s.Status().Caches[0].Fills) > 0 })
	s.Load(append(lines, sitetest.Private("new", "alice"))...)
	s.Load(append(lines, sitetest.Private("newer", "alice"))...)
	release()
	if r := <-ended; r.err != nil || !strings.Contains(r.out, "2 images, 0 failed: 2 manifests, 4 blobs") {
		t.Errorf("got error %v and %s, want two images", r.err, r.out)
	}
	if !s.IsStored(image.Layers[0]) {
		t.Error("the image is not stored")
	}
}
