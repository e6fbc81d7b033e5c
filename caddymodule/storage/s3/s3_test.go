package s3

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store/bucket"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// testKeys returns a key without an issuer.
func testKeys(context.Context, string) (string, []byte, error) {
	key := sha256.Sum256([]byte("shared"))
	return "k1", key[:], nil
}

// opened is an open storage and what it reported.
type opened struct {
	*bucket.Store

	mu       sync.Mutex
	problems []string
}

func (o *opened) reported() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.problems, "\n")
}

func open(t *testing.T, module *S3) *opened {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	if err := module.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	module.UseKeys("test", testKeys)
	o := &opened{}
	blobs, _, err := module.Open(zap.NewNop, func(op string, err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.problems = append(o.problems, op+": "+err.Error())
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Store = blobs.(*remote).Store
	keeping, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.Keep(keeping)
	}()
	t.Cleanup(func() { stop(); <-done })
	return o
}

func put(t *testing.T, s store.Blobs, content string) {
	t.Helper()
	spool, err := s.Spool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	if _, err := spool.WriteString(content); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), digest.FromString(content), spool); err != nil {
		t.Fatal(err)
	}
}

func flush(t *testing.T, o *opened) {
	t.Helper()
	for limit := time.Now().Add(30 * time.Second); o.Status().Blobs+o.Status().Records > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("not uploaded: %s", o.reported())
		}
	}
}

// TestS3Credentials: the secret is read again after it was refused, so that it can be
// rotated, and shows in no configuration, text or error.
func TestS3Credentials(t *testing.T) {
	server := s3test.New(t)
	dir := t.TempDir()
	t.Setenv("TEST_S3_KEY", "first")
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	module := &S3{
		Bucket: s3test.Bucket, Endpoint: server.URL, PathStyle: true, AccessKey: "{env.TEST_S3_KEY}", SecretKey: "{file." + secret + "}",
		Local: &storage.Filesystem{Root: filepath.Join(dir, "cache")},
	}
	o := open(t, module)
	server.Set(s3test.Faults{AccessKey: "first"})
	put(t, o, "one")
	flush(t, o)
	t.Setenv("TEST_S3_KEY", "second")
	server.Set(s3test.Faults{AccessKey: "second"})
	put(t, o, "two")
	flush(t, o)
	if got := len(server.Keys()); got != 2 || o.reported() != "" {
		t.Errorf("%d objects, want 2; reported %q", got, o.reported())
	}
	server.Set(s3test.Faults{AccessKey: "another"})
	_, _, err := o.Fetch(t.Context(), digest.FromString("one"), 0, -1)
	if err == nil || !strings.Contains(err.Error(), "check the credentials") {
		t.Errorf("refused credentials: %v", err)
	}
	config, _ := json.Marshal(module)
	for _, text := range []string{string(config), module.String(), module.Identity(), err.Error(), o.reported()} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("the secret shows in %q", text)
		}
	}
}

// TestS3WithoutCredentials: without credentials anywhere, nothing is sent, and the
// error says what to write.
func TestS3WithoutCredentials(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_ROLE_ARN", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"} {
		t.Setenv(name, "")
	}
	// A role that cannot be had, so that the metadata service is not asked.
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", filepath.Join(t.TempDir(), "none"))
	server := s3test.New(t)
	module := &S3{Bucket: s3test.Bucket, Endpoint: server.URL, PathStyle: true, Local: &storage.Filesystem{Root: t.TempDir()}}
	o := open(t, module)
	_, _, err := o.Fetch(t.Context(), digest.FromString("one"), 0, -1)
	if err == nil || !strings.Contains(err.Error(), "write `credentials ID SECRET`") || server.Requests("") != 0 {
		t.Errorf("%d requests, %v", server.Requests(""), err)
	}
}

// TestS3IdentityDown: an error of the service that has the credentials says what else can be
// done, and not the URL, which may have a secret.
func TestS3IdentityDown(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"} {
		t.Setenv(name, "")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://"+listener.Addr().String()+"/?token=hunter2")
	server := s3test.New(t)
	o := open(t, &S3{Bucket: s3test.Bucket, Endpoint: server.URL, PathStyle: true, Local: &storage.Filesystem{Root: t.TempDir()}})
	_, _, err = o.Fetch(t.Context(), digest.FromString("one"), 0, -1)
	if err == nil || !strings.Contains(err.Error(), "write `credentials ID SECRET`") || strings.Contains(err.Error(), "hunter2") || server.Requests("") != 0 {
		t.Errorf("%d requests, %v", server.Requests(""), err)
	}
}

// TestS3Environment: without a line, the credentials are those of the environment.
func TestS3Environment(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "of-environment")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	server := s3test.New(t)
	server.Set(s3test.Faults{AccessKey: "of-environment"})
	o := open(t, &S3{Bucket: s3test.Bucket, Endpoint: server.URL, PathStyle: true, Local: &storage.Filesystem{Root: t.TempDir()}})
	put(t, o, "one")
	flush(t, o)
	if got := server.Keys(); len(got) != 1 || !strings.HasPrefix(got[0], defaultPrefix+"blobs/sha256/") {
		t.Errorf("the bucket has %v; reported %q", got, o.reported())
	}
}

// TestS3Complete: settings are checked once their placeholders are replaced.
func TestS3Complete(t *testing.T) {
	base := S3{Bucket: "images", Region: "eu-central-1"}
	for name, test := range map[string]struct {
		change func(*S3)
		want   string // of the error; none if empty
	}{
		"smallest":           {func(*S3) {}, ""},
		"endpoint alone":     {func(s *S3) { s.Region, s.Endpoint = "", "https://s3.example.com:9000/" }, ""},
		"password in URL":    {func(s *S3) { s.Endpoint = "https://user:hunter2@s3.example.com" }, "invalid endpoint"},
		"bucket in URL":      {func(s *S3) { s.Endpoint = "https://s3.example.com/images" }, "without the bucket"},
		"no URL":             {func(s *S3) { s.Endpoint = "s3.example.com" }, "invalid endpoint"},
		"upper case":         {func(s *S3) { s.Bucket = "Images" }, "invalid bucket"},
		"dots":               {func(s *S3) { s.Bucket = "our.images" }, "path_style on"},
		"dots in the path":   {func(s *S3) { s.Bucket, s.PathStyle = "our.images", true }, ""},
		"redirect":           {func(s *S3) { s.Redirect = caddy.Duration(7 * 24 * time.Hour) }, ""},
		"redirect to http":   {func(s *S3) { s.Redirect, s.Endpoint = caddy.Duration(time.Minute), "http://s3.example.com" }, "redirect needs an endpoint with https"},
		"redirect here":      {func(s *S3) { s.Redirect, s.Endpoint = caddy.Duration(time.Second), "http://127.0.0.1:9000" }, ""},
		"redirect long":      {func(s *S3) { s.Redirect = caddy.Duration(8 * 24 * time.Hour) }, "a second to seven days"},
		"region":             {func(s *S3) { s.Region, s.Endpoint = "eu central", "https://s3.example.com" }, "invalid region"},
		"prefix":             {func(s *S3) { s.Prefix = "a/b" }, ""},
		"prefix with slash":  {func(s *S3) { s.Prefix = "/a" }, "invalid prefix"},
		"prefix above":       {func(s *S3) { s.Prefix = "a/../b" }, "invalid prefix"},
		"empty component":    {func(s *S3) { s.Prefix = "a//b" }, "invalid prefix"},
		"long prefix":        {func(s *S3) { s.Prefix = strings.Repeat("a", 300) }, "invalid prefix"},
		"id without secret":  {func(s *S3) { s.AccessKey = "id" }, "credentials ID SECRET"},
		"secret in the file": {func(s *S3) { s.AccessKey, s.SecretKey = "id", "hunter2" }, "must be a placeholder"},
	} {
		s := base
		test.change(&s)
		err := s.complete()
		if (err == nil) != (test.want == "") || err != nil && (!strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
		if err == nil && (!strings.HasSuffix(s.Prefix, "/") || s.endpoint == nil || s.Region == "") {
			t.Errorf("%s: incomplete: %+v", name, s)
		}
	}
}

// TestReplica: ranges of an object are described as the fill expects, an object with
// wrong content is replaced, and a bucket that was given up is left alone.
func TestReplica(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	server := s3test.New(t)
	o := open(t, &S3{Bucket: s3test.Bucket, Endpoint: server.URL, PathStyle: true, Local: &storage.Filesystem{Root: t.TempDir()}})
	const text = "content of the bucket"
	d := digest.FromString(text)
	put(t, o, text)
	flush(t, o)
	replica := newRemote(o.Store).Replica()
	for _, want := range []struct{ offset, length, end int64 }{{0, -1, 21}, {8, 6, 14}, {8, 100, 21}, {8, -1, 21}} {
		body, err := replica.Fetch(t.Context(), d, want.offset, want.length)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		_ = body.Close()
		if err != nil || string(got) != text[want.offset:want.end] || body.Size != 21 || body.Offset != want.offset || body.End != want.end {
			t.Errorf("%+v: got %q of %d, from %d to %d, %v", want, got, body.Size, body.Offset, body.End, err)
		}
	}
	name := server.Keys()[0]
	server.Put(name, []byte("wrong"))
	replica.Failed(d, fmt.Errorf("fill: %w", fill.ErrDigestMismatch))
	flush(t, o)
	if got, _ := server.Get(name); string(got) != text {
		t.Errorf("the bucket has %q, want the content that is stored locally", got)
	}
	replica.Failed(d, context.DeadlineExceeded)
	if status := newRemote(o.Store).RemoteStatus(); status.ReadError != context.DeadlineExceeded.Error() || status.ReadsFail.IsZero() || status.Blobs != 0 {
		t.Errorf("after the bucket was given up: %+v, want that it fails", status)
	}
}
