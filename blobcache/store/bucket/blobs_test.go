package bucket

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

const someContent = "content that nodes share"

// object returns the name of an object of a test's bucket.
func objectOf(d digest.Digest) string { return "cache/" + blobName(d) }

func fetchAll(t *testing.T, n *node, d digest.Digest, offset, length int64) (string, int64, error) {
	t.Helper()
	body, size, err := n.Fetch(t.Context(), d, offset, length)
	if err != nil {
		return "", 0, err
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	return string(content), size, err
}

// TestStoreUploads: committed content is uploaded once, with its checksum, and another
// node can fetch it and its ranges.
func TestStoreUploads(t *testing.T) {
	server := s3test.New(t)
	one, two := newNode(t, server), newNode(t, server)
	d := one.put(t, someContent)
	one.flush(t)
	if got, ok := server.Get(objectOf(d)); !ok || string(got) != someContent {
		t.Fatalf("the bucket has %q, %v; objects: %v", got, ok, server.Keys())
	}
	sum, _ := hex.DecodeString(d.Encoded())
	if got, want := server.Header(objectOf(d)).Get("X-Amz-Checksum-Sha256"), base64.StdEncoding.EncodeToString(sum); got != want {
		t.Errorf("checksum %q, want %q", got, want)
	}
	for _, r := range []struct{ offset, length int64 }{{0, -1}, {0, 7}, {8, 4}, {8, -1}, {20, 1000}} {
		want := someContent[r.offset:]
		if r.length > 0 && r.length < int64(len(want)) {
			want = want[:r.length]
		}
		if got, size, err := fetchAll(t, two, d, r.offset, r.length); got != want || size != int64(len(someContent)) || err != nil {
			t.Errorf("from %d, %d bytes: got %q of %d, %v; want %q", r.offset, r.length, got, size, err, want)
		}
	}
	puts := server.Requests(http.MethodPut)
	one.put(t, someContent)
	one.flush(t)
	if got := server.Requests(http.MethodPut); got != puts {
		t.Errorf("%d more uploads of the same content", got-puts)
	}
	if _, _, err := two.Fetch(t.Context(), digest.FromString("never stored"), 0, -1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent content: %v, want %v", err, fs.ErrNotExist)
	}
}

// TestStoreUploadsOnceForAllNodes: a node does not upload large content that another
// one has uploaded.
func TestStoreUploadsOnceForAllNodes(t *testing.T) {
	server := s3test.New(t)
	content := strings.Repeat("large", askFirst)
	for range 2 {
		n := newNode(t, server)
		n.put(t, content)
		n.flush(t)
	}
	if got := server.Requests(http.MethodPut); got != 1 {
		t.Errorf("%d uploads, want 1", got)
	}
}

// TestStoreUploadsParts: content above the size of a part is uploaded in parts, and a
// failed upload leaves none behind.
func TestStoreUploadsParts(t *testing.T) {
	server := s3test.New(t)
	config := configOf(t, server, t.TempDir())
	config.partSize = s3test.MinPart
	n := start(t, config)
	content := bytes.Repeat([]byte("0123456789abcdef"), (2*s3test.MinPart+askFirst)/16)
	d := n.put(t, string(content))
	n.flush(t)
	got, _ := server.Get(objectOf(d))
	if !bytes.Equal(got, content) || server.Uploads() != 0 {
		t.Errorf("the bucket has %d bytes, want %d; %d uploads are open", len(got), len(content), server.Uploads())
	}
}

// TestStoreUploadsAfterRestart: what was not uploaded when a process ended is uploaded
// by the next one with the same directory, and nothing else.
func TestStoreUploadsAfterRestart(t *testing.T) {
	server := s3test.New(t)
	config := configOf(t, server, t.TempDir())
	one := start(t, config)
	early := one.put(t, "uploaded in time")
	one.flush(t)
	server.Set(s3test.Faults{Down: true})
	d := one.put(t, someContent)
	if err := one.Save(t.Context(), "links/a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	one.stop()
	server.Set(s3test.Faults{})
	two := start(t, config)
	waitFor(t, func() bool { _, ok := server.Get(objectOf(d)); return ok })
	waitFor(t, func() bool { _, ok := server.Get("cache/links/a"); return ok })
	two.flush(t)
	if got := server.Stores(objectOf(early)); got != 1 {
		t.Errorf("what was uploaded in time was uploaded %d times", got)
	}
}

// TestStoreKeepsWhatIsNotUploaded: local content is removable once it is in the bucket,
// and not before.
func TestStoreKeepsWhatIsNotUploaded(t *testing.T) {
	server := s3test.New(t)
	server.Set(s3test.Faults{Full: true})
	n := newNode(t, server)
	d := n.put(t, someContent)
	waitFor(t, func() bool { return n.Status().WriteError != nil })
	if n.Removable(t.Context(), d) {
		t.Error("content is removable that is not in the bucket")
	}
	if !strings.Contains(n.reported(), "507") || !strings.Contains(n.Status().WriteError.Error(), "make room in the bucket") {
		t.Errorf("reported %q, status %v; want that the bucket is full", n.reported(), n.Status().WriteError)
	}
	server.Set(s3test.Faults{})
	n.flush(t)
	if !n.Removable(t.Context(), d) {
		t.Error("content is not removable that is in the bucket")
	}
	if err := n.Remove(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if n.Removable(t.Context(), d) {
		t.Error("the mark of removed content is still there")
	}
	if _, ok := server.Get(objectOf(d)); !ok {
		t.Error("the object went with the local content")
	}
}

// TestStoreRejects: content of the bucket that does not have its digest is replaced if
// the right content is stored locally, and otherwise removed.
func TestStoreRejects(t *testing.T) {
	for _, local := range []bool{true, false} {
		server := s3test.New(t)
		n := newNode(t, server)
		content := strings.Repeat("right", askFirst)
		d := n.put(t, content)
		n.flush(t)
		server.Put(objectOf(d), []byte(strings.Repeat("wrong", askFirst)))
		if !local {
			if err := n.Remove(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.Reject(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		n.flush(t)
		if got, ok := server.Get(objectOf(d)); ok != local || local && string(got) != content {
			t.Errorf("stored locally %v: the bucket has %d bytes, %v", local, len(got), ok)
		}
		if !strings.Contains(n.reported(), d.String()) {
			t.Errorf("reported %q, want the digest", n.reported())
		}
	}
}

// TestStoreVirtualHost: by default the bucket is part of the host.
func TestStoreVirtualHost(t *testing.T) {
	server := s3test.New(t)
	config := configOf(t, server, t.TempDir())
	address := config.Endpoint
	_, port, _ := net.SplitHostPort(address)
	config.Endpoint, config.PathStyle = "s3.example.com:"+port, false
	var hosts []string
	config.transport = &http.Transport{DialContext: func(ctx context.Context, network, host string) (net.Conn, error) {
		hosts = append(hosts, host)
		return new(net.Dialer).DialContext(ctx, network, address)
	}, MaxConnsPerHost: 1}
	n := start(t, config)
	d := n.put(t, someContent)
	n.flush(t)
	if _, ok := server.Get(objectOf(d)); !ok || hosts[0] != s3test.Bucket+".s3.example.com:"+port {
		t.Errorf("the bucket has %v, asked %v", server.Keys(), hosts)
	}
}

// TestStoreFetchFails: a bucket that fails costs a fetch its patience once, then nothing
// for a while.
func TestStoreFetchFails(t *testing.T) {
	d := digest.FromString(someContent)
	for name, fault := range faults {
		if name == "works" || fault.Full {
			continue
		}
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			server.Put(objectOf(d), []byte(someContent))
			config := configOf(t, server, t.TempDir())
			config.waits.pause, config.waits.maxPause = time.Hour, time.Hour
			if fault.Stalled {
				config.waits.answer = shortWaits.maxPause
			}
			n := start(t, config)
			server.Set(fault)
			if fault.Wrong || fault.Cut || fault.StalledBody {
				// These show in the content only, which the caller verifies.
				ctx, cancel := context.WithCancel(t.Context())
				body, size, err := n.Fetch(ctx, d, 0, -1)
				if err != nil || size != int64(len(someContent)) {
					t.Fatalf("got %d bytes, %v", size, err)
				}
				defer body.Close()
				if fault.StalledBody {
					cancel()
				}
				if got, err := io.ReadAll(body); err == nil && string(got) == someContent {
					t.Error("the fault does not show")
				}
				cancel()
				return
			}
			_, _, err := n.Fetch(t.Context(), d, 0, -1)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("got %v, want a failure", err)
			}
			asked := server.Requests("")
			if _, _, err := n.Fetch(t.Context(), d, 0, -1); !errors.Is(err, ErrPaused) || server.Requests("") != asked {
				t.Errorf("after a failure: %v and %d more requests, want %v and none", err, server.Requests("")-asked, ErrPaused)
			}
		})
	}
}

// TestStoreLostObject: an object that the bucket has lost is absent, and does not count
// as a failure.
func TestStoreLostObject(t *testing.T) {
	server := s3test.New(t)
	n := newNode(t, server)
	d, other := n.put(t, someContent), n.put(t, "other content")
	n.flush(t)
	server.Lose(objectOf(d))
	if _, _, err := n.Fetch(t.Context(), d, 0, -1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %v", err, fs.ErrNotExist)
	}
	if got, _, err := fetchAll(t, n, other, 0, -1); got != "other content" || err != nil {
		t.Errorf("the next object: %q, %v", got, err)
	}
	// The download from elsewhere uploads it again.
	if err := errors.Join(n.Remove(t.Context(), d)); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	n.put(t, someContent)
	n.flush(t)
	if _, ok := server.Get(objectOf(d)); !ok {
		t.Error("the object was not uploaded again")
	}
}
