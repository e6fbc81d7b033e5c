package caddymodule

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestStorageS3Uploads checks that a pulled image gets into the bucket with its records,
// that warm pulls cost no request to the bucket, and that no configuration shows the
// secret.
func TestStorageS3Uploads(t *testing.T) {
	server, up := s3test.New(t), registrytest.New(t)
	image := up.PutImage("team/app", "1", sitetest.Random(1, 5000))
	s := sitetest.InBucket(t, server)
	s.Load(sitetest.Users("alice"), sitetest.Private("red", "alice"), sitetest.Hub(up))
	sitetest.Pull(t, s, "red", "team/app", "1", sitetest.As("alice"))
	layer := image.Layers[0].Encoded()
	sitetest.Eventually(t, "the image is in the bucket", func() bool {
		folders := make(map[string]int)
		for _, key := range server.Keys() {
			folders[strings.Split(key, "/")[1]]++
		}
		_, stored := server.Get("cache/blobs/sha256/" + layer[:2] + "/" + layer)
		return stored && folders["blobs"] == 3 && folders["links"] == 3 && folders["deliveries"] == 3 && folders["refs"] == 1
	})
	sitetest.Eventually(t, "the status shows that all is uploaded", func() bool {
		remote := runningHandler(t).cacheStatus().Remote
		return remote != nil && remote.Blobs+remote.Records == 0 && remote.ReadError+remote.WriteError == ""
	})
	before := server.Requests("")
	for range 3 {
		sitetest.Pull(t, s, "red", "team/app", "1", sitetest.As("alice"))
	}
	if got := server.Requests("") - before; got != 0 {
		t.Errorf("%d requests to the bucket for warm pulls, want none", got)
	}
	module := runningHandler(t).StorageRaw
	config, err := json.Marshal(runningHandler(t))
	if err != nil || strings.Contains(string(config)+string(module), sitetest.BucketSecret) {
		t.Errorf("the configuration shows the secret, or an error: %v", err)
	}
}

// TestStorageS3Fails checks that pulls go on whatever the bucket does.
func TestStorageS3Fails(t *testing.T) {
	for name, fault := range map[string]s3test.Faults{
		"down": {Down: true}, "throttling": {Status: http.StatusServiceUnavailable, Code: "SlowDown"},
		"denying": {Status: http.StatusForbidden, Code: "AccessDenied"}, "full": {Full: true}, "wrong": {Wrong: true},
	} {
		t.Run(name, func(t *testing.T) {
			server, up := s3test.New(t), registrytest.New(t)
			server.Set(fault)
			up.PutImage("team/app", "1", sitetest.Random(1, 5000))
			s := sitetest.InBucket(t, server)
			s.Load(sitetest.Users("alice"), sitetest.Private("red", "alice"), sitetest.Hub(up))
			sitetest.Pull(t, s, "red", "team/app", "1", sitetest.As("alice"))
			before := up.Counts()
			sitetest.Pull(t, s, "red", "team/app", "1", sitetest.As("alice"))
			if got := up.Counts(); got.BlobBytes != before.BlobBytes {
				t.Error("the second pull was not served from the local disk")
			}
		})
	}
}
