package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

func load(t *testing.T, n *node, key string) string {
	t.Helper()
	value, err := n.Load(t.Context(), key)
	if errors.Is(err, fs.ErrNotExist) {
		return "absent"
	}
	if err != nil {
		t.Fatalf("load %s: %v", key, err)
	}
	return string(value)
}

func save(t *testing.T, n *node, key, value string) {
	t.Helper()
	if err := n.Save(t.Context(), key, []byte(value)); err != nil {
		t.Fatalf("save %s: %v", key, err)
	}
}

// TestRecordsAreShared: what one node saves, another one finds, and what one deletes is
// gone from the bucket. Records of other folders stay where they are.
func TestRecordsAreShared(t *testing.T) {
	server := s3test.New(t)
	one, two := newNode(t, server), newNode(t, server)
	save(t, one, "links/a/b", "linked")
	save(t, one, "usage/today", "local")
	one.flush(t)
	if got := load(t, two, "links/a/b"); got != "linked" {
		t.Errorf("the other node has %q, want linked", got)
	}
	if got := load(t, two, "usage/today"); got != "absent" {
		t.Errorf("a local record is %q at the other node, want it absent", got)
	}
	if err := two.Delete(t.Context(), "links/a/b"); err != nil {
		t.Fatal(err)
	}
	two.flush(t)
	if keys := server.Keys(); len(keys) != 0 || load(t, two, "links/a/b") != "absent" {
		t.Errorf("the bucket has %v after the record was deleted", keys)
	}
}

// TestRecordsNeedCode: a record that no node of the cluster has written under its name
// is ignored and reported.
func TestRecordsNeedCode(t *testing.T) {
	server := s3test.New(t)
	one := newNode(t, server)
	save(t, one, "links/a", "of a")
	one.flush(t)
	sealed, _ := server.Get("cache/links/a")
	foreign := configOf(t, server, t.TempDir())
	foreign.Keys = keysOf("another cluster's", "k1")
	objects := map[string][]byte{
		"links/moved":    sealed, // to another name
		"links/bare":     []byte("of a"),
		"links/empty":    nil,
		"links/cut":      sealed[:len(sealed)-1],
		"links/longer":   append(bytes.Clone(sealed), '!'),
		"links/no-key":   bytes.Replace(sealed, []byte(" k1 "), []byte(" k2 "), 1),
		"links/no-id":    bytes.Replace(sealed, []byte(" k1 "), []byte("  "), 1),
		"links/no-code":  []byte(sealedPrefix + "k1 \nof a"),
		"links/too-long": append(bytes.Clone(sealed), bytes.Repeat([]byte("x"), maxRecord)...),
	}
	for name, content := range objects {
		server.Put("cache/"+name, content)
		two := newNode(t, server)
		if got := load(t, two, name); got != "absent" {
			t.Errorf("%s: loaded %q", name, got)
		}
		if reported := two.reported(); name != "links/too-long" && !strings.Contains(reported, name) {
			t.Errorf("%s: reported %q", name, reported)
		}
		if _, err := two.Reload(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: reload: %v", name, err)
		}
	}
	if got := load(t, start(t, foreign), "links/a"); got != "absent" {
		t.Errorf("another cluster loaded %q", got)
	}
	if got := load(t, newNode(t, server), "links/a"); got != "of a" {
		t.Errorf("a node loaded %q, want the record", got)
	}
}

// TestRecordsAfterRotation: a record under an earlier key is read, and written again
// under the one in use.
func TestRecordsAfterRotation(t *testing.T) {
	server := s3test.New(t)
	one := newNode(t, server)
	save(t, one, "links/a", "of a")
	one.flush(t)
	config := configOf(t, server, t.TempDir())
	config.Keys = keysOf("shared", "k2", "k1")
	two := start(t, config)
	if got := load(t, two, "links/a"); got != "of a" {
		t.Fatalf("loaded %q", got)
	}
	two.flush(t)
	if sealed, _ := server.Get("cache/links/a"); !bytes.HasPrefix(sealed, []byte(sealedPrefix+"k2 ")) {
		t.Errorf("the bucket has %q, want it under the new key", sealed)
	}
}

// TestRecordsReload: another node's later value is read on request, without replacing
// the local one.
func TestRecordsReload(t *testing.T) {
	server := s3test.New(t)
	one, two := newNode(t, server), newNode(t, server)
	save(t, one, "refs/a", "1")
	one.flush(t)
	if got := load(t, two, "refs/a"); got != "1" {
		t.Fatalf("loaded %q", got)
	}
	save(t, one, "refs/a", "2")
	one.flush(t)
	if got, err := two.Reload(t.Context(), "refs/a"); string(got) != "2" || err != nil {
		t.Errorf("reloaded %q, %v", got, err)
	}
	if got := load(t, two, "refs/a"); got != "1" {
		t.Errorf("then loaded %q", got)
	}
}

// TestRecordsRequests: a record that is there locally costs no request, and one that is
// absent costs one in a while. Saving a record that waits for its upload adds none.
func TestRecordsRequests(t *testing.T) {
	server := s3test.New(t)
	config := configOf(t, server, t.TempDir())
	config.waits.absent = time.Hour
	n := start(t, config)
	save(t, n, "links/a", "1")
	n.flush(t)
	before := server.Requests("")
	for range 10 {
		load(t, n, "links/a")
		if err := n.Mark(t.Context(), "links/a", time.Now()); err != nil {
			t.Fatal(err)
		}
		load(t, n, "links/b")
	}
	if got := server.Requests("") - before; got != 1 {
		t.Errorf("%d requests, want one for the absent record", got)
	}
	server.Set(s3test.Faults{Stalled: true})
	for i := range 100 {
		save(t, n, "refs/a", fmt.Sprint(i))
	}
	server.Set(s3test.Faults{})
	n.flush(t)
	if got := server.Requests(http.MethodPut); got > 4 {
		t.Errorf("%d uploads of two records, one of which changed 100 times", got)
	}
	if got := load(t, newNode(t, server), "refs/a"); got != "99" {
		t.Errorf("another node loaded %q, want the last value", got)
	}
}

// TestRecordsBelow: records below a prefix are removed from the bucket also if they are
// not stored locally, and others stay.
func TestRecordsBelow(t *testing.T) {
	server := s3test.New(t)
	one, two := newNode(t, server), newNode(t, server)
	for _, key := range []string{"links/acme/a", "links/acme/b/c", "links/acme2/a", "refs/acme/a"} {
		save(t, one, key, "1")
	}
	one.flush(t)
	if err := two.DeleteBelow(t.Context(), "links/acme"); err != nil {
		t.Fatal(err)
	}
	two.flush(t)
	if got := strings.Join(server.Keys(), " "); got != "cache/links/acme2/a cache/refs/acme/a" {
		t.Errorf("the bucket has %s", got)
	}
	server.Set(s3test.Faults{Status: 403, Code: "AccessDenied"})
	if err := two.DeleteBelow(t.Context(), "refs/acme"); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("a bucket that denies it: %v", err)
	}
}

// TestRecordsForget: a forgotten record is still in the bucket, and is found there.
func TestRecordsForget(t *testing.T) {
	server := s3test.New(t)
	n := newNode(t, server)
	save(t, n, "links/a", "1")
	n.flush(t)
	if err := n.Forget(t.Context(), "links/a"); err != nil {
		t.Fatal(err)
	}
	n.flush(t)
	if got := load(t, n, "links/a"); got != "1" {
		t.Errorf("loaded %q, want the record of the bucket", got)
	}
}

// TestRecordsRotated: when the key rotates, a node writes its records again before the
// old key is deleted.
func TestRecordsRotated(t *testing.T) {
	server := s3test.New(t)
	config := configOf(t, server, t.TempDir())
	var rotated atomic.Bool
	config.Keys = func(ctx context.Context, id string) (string, []byte, error) {
		if rotated.Load() {
			return keysOf("shared", "k2", "k1")(ctx, id)
		}
		return keysOf("shared", "k1")(ctx, id)
	}
	n := start(t, config)
	save(t, n, "links/a", "of a")
	n.flush(t)
	rotated.Store(true)
	waitFor(t, func() bool {
		sealed, _ := server.Get("cache/links/a")
		return bytes.HasPrefix(sealed, []byte(sealedPrefix+"k2 "))
	})
}

// TestRecordsBelowWaits: a purge that waits for room in the queue does not hold up what
// saves or reads records.
func TestRecordsBelowWaits(t *testing.T) {
	server := s3test.New(t)
	s, err := Open(configOf(t, server, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Store: s}
	server.Put("cache/links/acme/a", []byte("x"))
	n.records.limit = 0
	done := make(chan error, 1)
	go func() { done <- n.DeleteBelow(t.Context(), "links/acme") }()
	waitFor(t, func() bool { return n.Status().Overflow })
	save(t, n, "links/acme/a", "saved")
	n.records.mu.Lock()
	n.records.limit = queueLimit
	n.records.mu.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := load(t, n, "links/acme/a"); got != "saved" {
		t.Errorf("loaded %q, want what was saved meanwhile", got)
	}
}
