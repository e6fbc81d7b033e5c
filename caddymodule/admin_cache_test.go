package caddymodule

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestCacheStatus checks that the admin API and the command report what groups
// have stored and which downloads are running.
func TestCacheStatus(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 2000))
	slow := up.PutBlob("library/alpine", random(2, 300_000))
	s := startWithAdmin(t, users("alice"), "group acme {\n owners alice\n quota 1MiB\n}\n", private("other", "alice"), hub(up), "admins alice")
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
	pull(t, s, "other", "alpine", "3.20", as("alice"))
	s.get("/other/dependency_proxy/cache", method(http.MethodDelete), as("alice")) // measures all groups
	release := up.StallBlobs(1000)
	defer release()
	body := s.open(blobPath("acme", "alpine", slow), as("alice")).Body
	defer body.Close()
	var all admin.CacheList
	eventually(t, "the groups are measured and the fill is seen", func() bool {
		a := s.ask("GET", adminCacheStatus, "").expect(t, http.StatusOK, "")
		if err := json.Unmarshal(a.body, &all); err != nil || len(all.Caches) != 1 {
			t.Fatalf("got %s, error %v; want one cache", a.body, err)
		}
		return all.Caches[0].Groups["acme"].Blobs >= 3 && len(all.Caches[0].Fills) == 1 && all.Caches[0].Fills[0].Written >= 1000
	})
	c := all.Caches[0]
	if f := c.Fills[0]; f.Digest != string(slow) || f.Size != 300_000 || f.Readers != 1 || f.Since.IsZero() || c.Groups["acme"].Quota != 1<<20 || c.Storage != "filesystem "+s.cache {
		t.Errorf("got %+v, want the fill of %s with one reader, the quota and the storage", c, slow)
	}
	table := s.mustCommand("cache", "status")
	for _, what := range []string{"acme", "1.0 MiB", "DOWNLOAD", string(slow), "293 KiB"} {
		if !strings.Contains(table, what) {
			t.Errorf("the table lacks %q:\n%s", what, table)
		}
	}
	s.ask("GET", adminCacheStatus+"?x=1", "").expect(t, http.StatusBadRequest, "")
	s.ask("DELETE", adminCacheStatus, "").expect(t, http.StatusMethodNotAllowed, "")
}

// TestScrubCommand checks that scrubbing finds and removes a blob that was
// damaged on disk, so that the next pull is right.
func TestScrubCommand(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", random(1, 5000))
	s := startWithAdmin(t, users("alice"), private("acme", "alice"), hub(up))
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
	if out, err := s.command("cache", "scrub"); err != nil || !strings.Contains(out, "3 blobs") || !strings.Contains(out, "0 damaged") {
		t.Errorf("got error %v and %s, want 3 blobs and none damaged", err, out)
	}
	file, err := os.OpenFile(s.blobFile(image.Layers[0]), os.O_RDWR, 0)
	if err == nil {
		_, err = file.WriteAt([]byte("flipped"), 2000)
		_ = file.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.command("cache", "scrub", "--rate", "100MiB")
	if err == nil || !strings.Contains(out, "1 damaged, 1 of them dropped") {
		t.Errorf("got error %v and %s, want an error and one blob dropped", err, out)
	}
	if s.isStored(image.Layers[0]) {
		t.Error("the damaged blob is still stored")
	}
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
	for _, rate := range []string{"x", "0", "-1"} {
		if _, err := s.command("cache", "scrub", "--rate="+rate); err == nil {
			t.Errorf("got no error for the rate %s, want one", rate)
		}
	}
	s.ask("POST", adminCacheScrub, `{"rate":-1}`).expect(t, http.StatusBadRequest, "")
	s.ask("POST", adminCacheScrub, `{"else":1}`).expect(t, http.StatusBadRequest, "")
}

// TestWarmCommand checks that images are pulled through the cache for their groups,
// with their limits, and that the command tells which ones failed.
func TestWarmCommand(t *testing.T) {
	up := registrytest.New(t)
	amd, arm := up.PutImage("library/alpine", "", random(1, 2000)), up.PutImage("library/alpine", "", random(2, 3000))
	up.PutIndex("library/alpine", "3.20", amd, arm)
	app := up.PutImage("team/app", "1", random(3, 4000))
	s := startWithAdmin(t, users("alice"), "group acme {\n members alice\n deny docker.io/secret/**\n}\n", private("acme/sub", "alice"), hub(up))
	out := s.mustCommand("cache", "warm", "--platform", "linux/amd64", "acme/alpine:3.20", s.host+"/acme/sub/dependency_proxy/containers/team/app@"+string(app.Manifest))
	for _, want := range []string{"acme/alpine:3.20: 2 manifests, 2 blobs, 2.1 KiB, 2.1 KiB of it fetched", "2 images, 0 failed: 3 manifests, 4 blobs"} {
		if !strings.Contains(out, want) {
			t.Errorf("got %s, want a line with %q", out, want)
		}
	}
	if !s.isStored(amd.Layers[0]) || s.isStored(arm.Layers[0]) || !s.isStored(app.Layers[0]) {
		t.Error("the cache has other images than those that were asked for")
	}
	up.Reset()
	pull(t, s, "acme/sub", "team/app", "1", as("alice"))
	expectRequests(t, up, "a pull of what is warm", registrytest.Counts{ManifestHead: 1}) // the tag was not asked about

	s.stdin = "# a list\n\nacme/alpine:3.20\nacme/secret/x:1\nother/alpine:3.20\nacme/none:1\n alone\n"
	stdout, _, err := s.commandOutputs("cache", "warm", "-")
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
	stdout, _, err = s.commandOutputs("cache", "warm", "--json", "acme/alpine:3.20")
	var state admin.WarmState
	if jerr := json.Unmarshal([]byte(stdout), &state); err != nil || jerr != nil || !state.Done || state.Blobs != 4 || state.Fetched != 0 {
		t.Errorf("got error %v and %s, want the final state with 4 blobs", err, stdout)
	}
	for _, args := range [][]string{{}, {"--parallel", "9", "acme/alpine"}, {"--parallel", "0", "acme/alpine"}, {"--platform", "", "acme/alpine"}, {"--platform", "linux", "acme/alpine"}} {
		if _, err := s.command(append([]string{"cache", "warm"}, args...)...); err == nil {
			t.Errorf("%q: got no error, want one", args)
		}
	}
	s.stdin = ""
	if out, err := s.command("cache", "warm", "-"); err == nil {
		t.Errorf("an empty list: got no error and %s, want one", out)
	}
	s.ask("POST", "/dependency_proxy/cache/warm", `{"image":"acme/alpine","site":"none"}`).expect(t, http.StatusNotFound, "")
	s.ask("POST", "/dependency_proxy/cache/warm", `{"image":"acme/alpine","platforms":["x"]}`).expect(t, http.StatusBadRequest, "")
}

// TestWarmDuringReload checks that a reload neither ends nor spoils the pull of an image.
func TestWarmDuringReload(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", random(1, 300_000))
	up.PutImage("library/alpine", "3.21", random(2, 300_000))
	lines := []string{users("alice"), private("acme", "alice"), hub(up)}
	s := startWithAdmin(t, lines...)
	release := up.StallBlobs(100_000)
	defer release()
	s.stdin = "acme/alpine:3.20\nacme/alpine:3.21\n"
	type result struct {
		out string
		err error
	}
	ended := make(chan result, 1)
	go func() {
		out, err := s.command("cache", "warm", "--parallel", "1", "-")
		ended <- result{out, err}
	}()
	eventually(t, "the download has begun", func() bool { return len(s.status().Caches[0].Fills) > 0 })
	s.load(append(lines, private("new", "alice"))...)
	s.load(append(lines, private("newer", "alice"))...)
	release()
	if r := <-ended; r.err != nil || !strings.Contains(r.out, "2 images, 0 failed: 2 manifests, 4 blobs") {
		t.Errorf("got error %v and %s, want two images", r.err, r.out)
	}
	if !s.isStored(image.Layers[0]) {
		t.Error("the image is not stored")
	}
}
