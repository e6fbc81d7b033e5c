package bucket

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestKeepEndsWithUploads: what waits and what is under way is uploaded before Keep
// returns.
func TestKeepEndsWithUploads(t *testing.T) {
	server := s3test.New(t)
	config := configOf(t, server, t.TempDir())
	config.waits.flush = time.Minute
	n := start(t, config)
	server.Set(s3test.Faults{Stalled: true})
	var all []digest.Digest
	for i := range 20 {
		all = append(all, n.put(t, fmt.Sprint("content ", i)))
	}
	if err := n.Save(t.Context(), "links/a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); n.stop() }()
	server.Set(s3test.Faults{})
	<-ended
	for i, d := range all {
		if _, ok := server.Get(objectOf(d)); !ok {
			t.Errorf("content %d is not in the bucket", i)
		}
	}
	if _, ok := server.Get("cache/links/a"); !ok {
		t.Error("the record is not in the bucket")
	}
}

// TestKeepEnds: Keep returns soon although the bucket hangs, fails, or refuses an object.
// What is left is uploaded by the next process, without what was uploaded.
func TestKeepEnds(t *testing.T) {
	for name, fault := range map[string]s3test.Faults{
		"hangs": {Stalled: true}, "down": {Down: true}, "denies": {Status: 403, Code: "AccessDenied"}, "full": {Full: true},
	} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			config := configOf(t, server, t.TempDir())
			one := start(t, config)
			early := one.put(t, "uploaded in time")
			one.flush(t)
			server.Set(fault)
			late := one.put(t, strings.Repeat("late", askFirst))
			if err := one.Save(t.Context(), "links/a", []byte("1")); err != nil {
				t.Fatal(err)
			}
			one.stop()
			if _, ok := server.Get(objectOf(late)); ok {
				t.Fatal("the fault does not show")
			}
			server.Set(s3test.Faults{})
			two := start(t, config)
			waitFor(t, func() bool { return two.Removable(t.Context(), late) })
			waitFor(t, func() bool { _, ok := server.Get("cache/links/a"); return ok })
			two.flush(t)
			if _, ok := server.Get(objectOf(late)); !ok || server.Stores(objectOf(early)) != 1 {
				t.Errorf("the late content is there %v, the early one was stored %d times", ok, server.Stores(objectOf(early)))
			}
		})
	}
}
