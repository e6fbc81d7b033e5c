package storetest

import (
	"context"
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

func testWalkNothing(t *testing.T, s store.Blobs) {
	if got := walked(t, s); len(got) != 0 {
		t.Fatalf("got %v, want no content", got)
	}
}

func testFree(t *testing.T, s store.Blobs) {
	if free, total, err := s.Free(t.Context()); err != nil || total > 0 && (free < 0 || free > total) {
		t.Errorf("got %d free of %d bytes, %v; want at most the total", free, total, err)
	}
}

func testWalk(t *testing.T, s store.Blobs) {
	want := make(map[digest.Digest]int64)
	for _, content := range []string{"", "one", "two and more", "three"} {
		for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
			d := algorithm.FromString(content)
			put(t, s, d, content)
			want[d] = int64(len(content))
		}
	}
	spooled(t, s, "not yet stored")
	got := walked(t, s)
	if len(got) != len(want) {
		t.Errorf("visited %d of %d", len(got), len(want))
	}
	for d, size := range want {
		if e, ok := got[d]; !ok || e.Size != size || time.Since(e.Used).Abs() > time.Hour {
			t.Errorf("%s of %d bytes: visited %v, %+v", d, size, ok, e)
		}
	}
}

func testWalkStops(t *testing.T, s store.Blobs) {
	put(t, s, digest.FromString("one"), "one")
	put(t, s, digest.FromString("two"), "two")
	enough, visits := errors.New("enough"), 0
	err := s.Walk(t.Context(), func(store.Entry) error {
		visits++
		return enough
	})
	if !errors.Is(err, enough) || visits != 1 {
		t.Errorf("got %d visits and the error %v, want 1 and %v", visits, err, enough)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Walk(ctx, func(store.Entry) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Walk with a cancelled context: got %v, want %v", err, context.Canceled)
	}
}

func testCheck(t *testing.T, s store.Blobs) {
	good, bad := digest.FromString("some content"), digest.FromString("other content")
	if err := s.Check(t.Context(), good, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Check of absent content: got %v, want %v", err, fs.ErrNotExist)
	}
	put(t, s, good, "some content")
	put(t, s, bad, "some content")
	read := 0
	err := s.Check(t.Context(), good, func(_ context.Context, n int) error { read += n; return nil })
	if err != nil || read != len("some content") {
		t.Errorf("got %v after %d bytes", err, read)
	}
	if err := s.Check(t.Context(), bad, nil); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("Check of content with another digest: got %v, want %v", err, store.ErrDamaged)
	}
	enough := errors.New("enough")
	if err := s.Check(t.Context(), good, func(context.Context, int) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("got %v, want %v", err, enough)
	}
}

func testStat(t *testing.T, s store.Blobs) {
	d := digest.FromString("some content")
	if _, err := s.Stat(t.Context(), d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat of absent content: got %v, want %v", err, fs.ErrNotExist)
	}
	if _, err := s.Stat(t.Context(), "sha256:../x"); err == nil {
		t.Error("Stat of an invalid digest: got no error, want one")
	}
	put(t, s, d, "some content")
	if e, err := s.Stat(t.Context(), d); err != nil || e != walked(t, s)[d] || e.Size != int64(len("some content")) {
		t.Errorf("%+v, %v; walked %+v", e, err, walked(t, s)[d])
	}
	if err := s.Remove(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat of removed content: got %v, want %v", err, fs.ErrNotExist)
	}
}

func testTouch(t *testing.T, s store.Blobs) {
	d := digest.FromString("used")
	used := time.Now().Add(-48 * time.Hour).Truncate(time.Second)
	if err := s.Touch(t.Context(), d, used); err != nil {
		t.Fatalf("Touch of absent content: got %v, want no error", err)
	}
	put(t, s, d, "used")
	if err := s.Touch(t.Context(), d, used); err != nil {
		t.Fatal(err)
	}
	if got := walked(t, s)[d].Used; !got.Equal(used) {
		t.Errorf("used %v instead of %v", got, used)
	}
	same(t, found(t, s, d), "used")
}

func walked(t *testing.T, s store.Blobs) map[digest.Digest]store.Entry {
	t.Helper()
	entries := make(map[digest.Digest]store.Entry)
	err := s.Walk(t.Context(), func(e store.Entry) error {
		entries[e.Digest] = e
		return nil
	})
	if err != nil {
		t.Fatalf("walk: %v", err)
	}
	return entries
}
