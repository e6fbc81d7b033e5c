//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/opencontainers/go-digest"
)

const (
	bucketName   = "images"
	bucketPrefix = "cache/"
	bucketID     = "node"
	bucketSecret = "secret-of-the-bucket" // in the environment of all proxies, as BUCKET_SECRET
)

// objectStore is versitygw, an S3 server, with one bucket in a folder.
type objectStore struct {
	*process
	dir     string
	address string
	api     *minio.Client
}

// startBucket starts an object store, which runs until the test ends.
func startBucket(t *testing.T) *objectStore {
	t.Helper()
	s := &objectStore{dir: t.TempDir(), address: fmt.Sprintf("127.0.0.1:%d", 9000+nextPort.Add(2))}
	for _, folder := range []string{filepath.Join("files", bucketName), "sidecar"} {
		must(t, os.MkdirAll(filepath.Join(s.dir, folder), 0o755))
	}
	_, _, err := lab.authority.issueFiles(s.dir, "127.0.0.1")
	must(t, err)
	s.api, err = minio.New(s.address, &minio.Options{
		Creds: credentials.NewStaticV4(bucketID, bucketSecret, ""), Secure: true, Region: "us-east-1",
		BucketLookup: minio.BucketLookupPath, MaxRetries: 1,
		Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: lab.roots}},
	})
	must(t, err)
	s.launch(t)
	return s
}

// launch starts the server, again after [objectStore.kill].
func (s *objectStore) launch(t *testing.T) {
	t.Helper()
	var err error
	s.process, err = startProcess(s.dir, "versitygw", plainEnv(s.dir), "versitygw", "--quiet",
		"--access", bucketID, "--secret", bucketSecret, "--port", s.address,
		"--cert", filepath.Join(s.dir, "127.0.0.1.crt"), "--key", filepath.Join(s.dir, "127.0.0.1.key"),
		// The folder may be on a file system without extended attributes.
		"--access-log", s.accessLog(), "posix", "--sidecar", filepath.Join(s.dir, "sidecar"), filepath.Join(s.dir, "files"))
	must(t, err)
	t.Cleanup(s.process.kill)
	must(t, s.ready(func() error {
		_, err := s.api.BucketExists(t.Context(), bucketName)
		return err
	}))
}

func (s *objectStore) accessLog() string { return filepath.Join(s.dir, "access.log") }

// requests returns the number of requests, by operation.
func (s *objectStore) requests(t *testing.T) map[string]int {
	t.Helper()
	log, err := os.ReadFile(s.accessLog())
	must(t, err)
	count := map[string]int{}
	for line := range strings.Lines(string(log)) {
		for _, field := range strings.Fields(line) {
			if operation, ok := strings.CutPrefix(field, "s3_"); ok {
				count[operation]++
				break
			}
		}
	}
	return count
}

// lines returns the lines of a storage block that names the bucket.
func (s *objectStore) lines(more ...string) string {
	return strings.Join(append([]string{
		"bucket " + bucketName, "endpoint https://" + s.address, "path_style on", "prefix " + bucketPrefix,
		"credentials " + bucketID + " {env.BUCKET_SECRET}",
	}, more...), "\n")
}

func blobObject(d digest.Digest) string {
	return bucketPrefix + "blobs/" + d.Algorithm().String() + "/" + d.Encoded()[:2] + "/" + d.Encoded()
}

// read returns the digest of the object for content, or an error if there is none.
func (s *objectStore) read(ctx context.Context, d digest.Digest) (digest.Digest, error) {
	object, err := s.api.GetObject(ctx, bucketName, blobObject(d), minio.GetObjectOptions{})
	if err != nil {
		return "", err
	}
	defer object.Close()
	return digest.FromReader(object)
}

// await waits until the bucket has all content of images, each under its digest.
func (s *objectStore) await(t *testing.T, images ...image) {
	t.Helper()
	for _, img := range images {
		for _, blob := range append(img.blobs(), img.manifest.String(), img.digest.String()) {
			await(t, func() error {
				got, err := s.read(t.Context(), digest.Digest(blob))
				if err == nil && got.String() == blob {
					return nil
				}
				return fmt.Errorf("the bucket has %q for %s of %s:%s: %v", got, blob, img.repository, img.tag, err)
			})
		}
	}
}

// wantAll reports an error unless the bucket has all blobs of a cache.
func (s *objectStore) wantAll(t *testing.T, cache string) {
	t.Helper()
	must(t, filepath.WalkDir(filepath.Join(cache, "blobs"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		d := digest.NewDigestFromEncoded(digest.SHA256, entry.Name())
		if got, err := s.read(t.Context(), d); err != nil || got != d {
			t.Errorf("the bucket has %q for %s of %s: %v", got, d, cache, err)
		}
		return nil
	}))
}

// replace overwrites an object that exists.
func (s *objectStore) replace(t *testing.T, d digest.Digest, content []byte) {
	t.Helper()
	_, err := s.api.StatObject(t.Context(), bucketName, blobObject(d), minio.StatObjectOptions{})
	must(t, err)
	_, err = s.api.PutObject(t.Context(), bucketName, blobObject(d), bytes.NewReader(content), int64(len(content)), minio.PutObjectOptions{})
	must(t, err)
}

// content returns the bytes of an object.
func (s *objectStore) content(t *testing.T, d digest.Digest) []byte {
	t.Helper()
	object, err := s.api.GetObject(t.Context(), bucketName, blobObject(d), minio.GetObjectOptions{})
	must(t, err)
	defer object.Close()
	content, err := io.ReadAll(object)
	must(t, err)
	return content
}

// kill ends the process without a chance to finish anything.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// freeze stops the process until thaw: connections to it are accepted and nothing is
// answered.
func (p *process) freeze() { _ = p.cmd.Process.Signal(syscall.SIGSTOP) }

func (p *process) thaw() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }
