package caddymodule

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestClusterSwitch checks that a node with its cache on the local disk alone keeps it
// when a reload adds a bucket, and uploads it for others, and that what waits for the
// bucket survives a reload that changes a limit.
func TestClusterSwitch(t *testing.T) {
	server, up := s3test.New(t), registrytest.New(t)
	before := up.PutImage("library/alpine", "before", random(1, 5000))
	after := up.PutImage("library/alpine", "after", random(2, 5000))
	one, two, both := twoNodes(t, server)
	lines := []string{users("alice"), private("acme", "alice"), hub(up)}
	storage := one.bucket
	one.bucket = ""
	one.load(lines...)
	pull(t, one, "acme", "alpine", "before", as("alice"))
	up.Reset()

	one.bucket = storage
	server.Set(s3test.Faults{Full: true})
	one.load(lines...)
	pull(t, one, "acme", "alpine", "before", as("alice"))
	expectRequests(t, up, "what was cached before the switch", registrytest.Counts{})
	pull(t, one, "acme", "alpine", "after", as("alice"))
	one.limits = "max_size 1GiB"
	one.load(lines...)
	server.Set(s3test.Faults{})
	eventually(t, "both images are in the bucket with their records", func() bool {
		folders := make(map[string]int)
		for _, key := range server.Keys() {
			folders[strings.Split(key, "/")[1]]++
		}
		return folders["blobs"] == 6 && folders["links"] == 6 && folders["refs"] == 2
	})
	one.load(both(lines...)...)
	up.Reset()
	for tag, image := range map[string]registrytest.Image{"before": before, "after": after} {
		two.get(manifestPath("acme", "alpine", tag), as("alice")).content(t, up.RawManifest("library/alpine", image.Manifest))
		two.get(blobPath("acme", "alpine", image.Layers[0]), as("alice")).expect(t, http.StatusOK, "")
	}
	expectRequests(t, up, "the other node", registrytest.Counts{})
}

// TestClusterSecrets checks that the secret of a bucket that refuses it, or that cannot be
// reached, is in no configuration and no status. Each test of a bucket checks the log.
func TestClusterSecrets(t *testing.T) {
	for name, test := range map[string]struct {
		faults   s3test.Faults
		endpoint string
		want     string // in the log
	}{
		"refused":      {faults: s3test.Faults{AccessKey: "another"}, want: "check the credentials"},
		"no such host": {endpoint: "http://127.0.0.1:1", want: "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			server, up := s3test.New(t), registrytest.New(t)
			up.PutImage("library/alpine", "3.20", random(1, 5000))
			s := inBucket(t, server)
			s.openAdmin()
			server.Set(test.faults)
			if test.endpoint != "" {
				s.bucket = strings.Replace(s.bucket, server.URL, test.endpoint, 1)
			}
			s.load(users("alice"), private("acme", "alice"), hub(up))
			pull(t, s, "acme", "alpine", "3.20", as("alice"))
			eventually(t, "the failure is logged", func() bool { return strings.Contains(s.logs(), test.want) })
			status, err := json.Marshal(runningHandler(t).cacheStatus())
			if err != nil {
				t.Fatal(err)
			}
			for what, text := range map[string]string{
				"configuration": string(s.ask(http.MethodGet, "/config/", "").body),
				"status":        string(status),
			} {
				if text == "" || strings.Contains(text, bucketSecret) {
					t.Errorf("the %s is empty or shows the secret: %.200s", what, text)
				}
			}
		})
	}
}
