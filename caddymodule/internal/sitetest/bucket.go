package sitetest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/porttest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// BucketSecret is the secret of the nodes of a test for the bucket.
const BucketSecret = "secret-of-the-bucket"

// InBucket returns a site that is not running yet and keeps its cache in a bucket.
func InBucket(t testing.TB, server *s3test.Server) *Site {
	t.Helper()
	s := NewSite(t)
	secret := filepath.Join(s.Dir, "secret")
	if err := os.WriteFile(secret, []byte(BucketSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	s.AddSecrets(BucketSecret)
	s.Bucket = "bucket " + s3test.Bucket + "\nendpoint " + server.URL + "\npath_style on\nprefix cache\ncredentials id {file." + secret + "}"
	return s
}

// TwoNodes returns two nodes that are not running yet and share a bucket, the signing
// keys and an address. They are sites of one Caddy: loading the first one with the lines
// that the function returns runs both.
func TwoNodes(t testing.TB, server *s3test.Server) (one, two *Site, both func(lines ...string) []string) {
	t.Helper()
	one = InBucket(t, server)
	host := porttest.Reserve(t)
	two = &Site{T: t, URL: "http://" + host, Host: host, Dir: one.Dir, Cache: filepath.Join(one.Dir, "cache2")}
	port := PortOf(two.Host)
	return one, two, func(lines ...string) []string {
		one.After = fmt.Sprintf("http://:%s {\n bind 127.0.0.1\n log\n dependency_proxy {\n storage s3 {\n %s\n local %s {\n reserve off\n }\n }\n %s\n }\n}",
			port, one.Bucket, two.Cache, strings.Join(lines, "\n"))
		return lines
	}
}

// AwaitUploads waits until the nodes have uploaded everything.
func (s *Site) AwaitUploads() {
	s.T.Helper()
	Eventually(s.T, "everything is uploaded", func() bool {
		for _, storage := range s.Storages() {
			if storage.Remote.Blobs+storage.Remote.Records > 0 {
				return false
			}
		}
		return true
	})
}

// AwaitAudit waits for a line of the audit log about a pull.
func (s *Site) AwaitAudit(what string, is func(line map[string]any) bool) {
	s.T.Helper()
	Eventually(s.T, "the audit of "+what, func() bool {
		for text := range strings.Lines(s.Logs()) {
			var line map[string]any
			if strings.Contains(text, ".audit.pull") && json.Unmarshal([]byte(text), &line) == nil && is(line) {
				return true
			}
		}
		return false
	})
}

// GetWhole gets content and checks it. The transfer may break off once, because the bucket
// has sent wrong bytes.
func (s *Site) GetWhole(path string, want []byte, who RequestOption) {
	s.T.Helper()
	a := s.Get(path, who)
	if a.Err != nil {
		a = s.Get(path, who)
	}
	a.Content(s.T, want)
}

// ObjectOf returns the name of the object of content in the bucket of a test.
func ObjectOf(d digest.Digest) string {
	return "cache/blobs/" + d.Algorithm().String() + "/" + d.Encoded()[:2] + "/" + d.Encoded()
}
