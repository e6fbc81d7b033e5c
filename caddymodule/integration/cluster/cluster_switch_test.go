package cluster

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestClusterSwitch checks that a node with its cache on the local disk alone keeps it
// when a reload adds a bucket, and uploads it for others, and that what waits for the
// bucket survives a reload that changes a limit.
func TestClusterSwitch(t *testing.T) {
	server, up := s3test.New(t), registrytest.New(t)
	before := up.PutImage("library/alpine", "before", sitetest.Random(1, 5000))
	after := up.PutImage("library/alpine", "after", sitetest.Random(2, 5000))
	one, two, both := sitetest.TwoNodes(t, server)
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up)}
	storage := one.Bucket
	one.Bucket = ""
	one.Load(lines...)
	sitetest.Pull(t, one, "acme", "alpine", "before", sitetest.As("alice"))
	up.Reset()

	one.Bucket = storage
	server.Set(s3test.Faults{Full: true})
	one.Load(lines...)
	sitetest.Pull(t, one, "acme", "alpine", "before", sitetest.As("alice"))
	sitetest.ExpectRequests(t, up, "what was cached before the switch", registrytest.Counts{})
	sitetest.Pull(t, one, "acme", "alpine", "after", sitetest.As("alice"))
	one.Limits = "max_size 1GiB"
	one.Load(lines...)
	server.Set(s3test.Faults{})
	sitetest.Eventually(t, "both images are in the bucket with their records", func() bool {
		folders := make(map[string]int)
		for _, key := range server.Keys() {
			folders[strings.Split(key, "/")[1]]++
		}
		return folders["blobs"] == 6 && folders["links"] == 6 && folders["refs"] == 2
	})
	one.Load(both(lines...)...)
	up.Reset()
	for tag, image := range map[string]registrytest.Image{"before": before, "after": after} {
		two.Get(sitetest.ManifestPath("acme", "alpine", tag), sitetest.As("alice")).Content(t, up.RawManifest("library/alpine", image.Manifest))
		two.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	}
	sitetest.ExpectRequests(t, up, "the other node", registrytest.Counts{})
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
			up.PutImage("library/alpine", "3.20", sitetest.Random(1, 5000))
			s := sitetest.InBucket(t, server)
			s.OpenAdmin()
			server.Set(test.faults)
			if test.endpoint != "" {
				s.Bucket = strings.Replace(s.Bucket, server.URL, test.endpoint, 1)
			}
			s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
			sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
			sitetest.Eventually(t, "the failure is logged", func() bool { return strings.Contains(s.Logs(), test.want) })
			status, err := json.Marshal(s.Storages())
			if err != nil {
				t.Fatal(err)
			}
			for what, text := range map[string]string{
				"configuration": string(s.Ask(http.MethodGet, "/config/", "").Data),
				"status":        string(status),
			} {
				if text == "" || strings.Contains(text, sitetest.BucketSecret) {
					t.Errorf("the %s is empty or shows the secret: %.200s", what, text)
				}
			}
		})
	}
}
