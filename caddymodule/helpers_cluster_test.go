package caddymodule

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

// bucketSecret is the secret of the nodes of a test for the bucket.
const bucketSecret = "secret-of-the-bucket"

// inBucket returns a site that is not running yet and keeps its cache in a bucket.
func inBucket(t testing.TB, server *s3test.Server) *site {
	t.Helper()
	s := newSite(t)
	secret := filepath.Join(s.dir, "secret")
	if err := os.WriteFile(secret, []byte(bucketSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	s.addSecrets(bucketSecret)
	s.bucket = "bucket " + s3test.Bucket + "\nendpoint " + server.URL + "\npath_style on\nprefix cache\ncredentials id {file." + secret + "}"
	return s
}

// twoNodes returns two nodes that are not running yet and share a bucket, the signing
// keys and an address. They are sites of one Caddy: loading the first one with the lines
// that the function returns runs both.
func twoNodes(t testing.TB, server *s3test.Server) (one, two *site, both func(lines ...string) []string) {
	t.Helper()
	one = inBucket(t, server)
	host := porttest.Reserve(t)
	two = &site{t: t, url: "http://" + host, host: host, dir: one.dir, cache: filepath.Join(one.dir, "cache2")}
	port := portOf(two.host)
	return one, two, func(lines ...string) []string {
		one.after = fmt.Sprintf("http://:%s {\n bind 127.0.0.1\n log\n dependency_proxy {\n storage s3 {\n %s\n local %s {\n reserve off\n }\n }\n %s\n }\n}",
			port, one.bucket, two.cache, strings.Join(lines, "\n"))
		return lines
	}
}

// awaitUploads waits until the nodes have uploaded everything.
func (s *site) awaitUploads() {
	s.t.Helper()
	eventually(s.t, "everything is uploaded", func() bool {
		for _, storage := range s.storages() {
			if storage.Remote.Blobs+storage.Remote.Records > 0 {
				return false
			}
		}
		return true
	})
}

// awaitAudit waits for a line of the audit log about a pull.
func (s *site) awaitAudit(what string, is func(line map[string]any) bool) {
	s.t.Helper()
	eventually(s.t, "the audit of "+what, func() bool {
		for text := range strings.Lines(s.logs()) {
			var line map[string]any
			if strings.Contains(text, ".audit.pull") && json.Unmarshal([]byte(text), &line) == nil && is(line) {
				return true
			}
		}
		return false
	})
}

// getWhole gets content that may break off once, because what came from the bucket was
// wrong, and checks it.
func (s *site) getWhole(path string, want []byte, who requestOption) {
	s.t.Helper()
	a := s.get(path, who)
	if a.err != nil {
		a = s.get(path, who)
	}
	a.content(s.t, want)
}

// objectOf returns the name of the object of content in the bucket of a test.
func objectOf(d digest.Digest) string {
	return "cache/blobs/" + d.Algorithm().String() + "/" + d.Encoded()[:2] + "/" + d.Encoded()
}
