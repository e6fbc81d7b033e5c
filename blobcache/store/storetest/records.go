package storetest

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// RunRecords tests an implementation of [store.Records]. Each call of open
// returns an empty one.
func RunRecords(t *testing.T, open func(t *testing.T) store.Records) {
	tests := map[string]func(*testing.T, store.Records){
		"AbsentIsNotExist": testNoRecord,
		"SaveThenLoad":     testSave,
		"LastWriterWins":   testReplace,
		"ValuesAreCopies":  testCopies,
		"BadKeys":          testBadKeys,
		"Concurrent":       testConcurrentSave,
		"List":             testList,
		"ListStops":        testListStops,
		"Mark":             testMark,
		"Delete":           testDelete,
		"DeleteInList":     testDeleteInList,
		"DeleteAndSave":    testDeleteAndSave,
		"BadKeysChanged":   testBadKeysChanged,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func testNoRecord(t *testing.T, r store.Records) {
	if _, err := r.Load(t.Context(), "refs/a/b/latest"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("load: %v instead of %v", err, fs.ErrNotExist)
	}
}

func testSave(t *testing.T, r store.Records) {
	values := map[string]string{
		"refs/a/latest":                              "1",
		"refs/a/3.20":                                "2",
		"refs/a/b/latest":                            "3",
		"refs/a.b/_latest":                           "4",
		"links/a/" + strings.Repeat("f", 128):        "5",
		"links/" + strings.Repeat("deep/", 20) + "x": "6",
		"refs/a/empty":                               "",
	}
	for key, value := range values {
		save(t, r, key, value)
	}
	for key, value := range values {
		loads(t, r, key, value)
	}
}

func testReplace(t *testing.T, r store.Records) {
	for _, value := range []string{"a longer first value", "second", "", "last"} {
		save(t, r, "refs/a/latest", value)
		loads(t, r, "refs/a/latest", value)
	}
}

func testCopies(t *testing.T, r store.Records) {
	value := []byte("value")
	if err := r.Save(t.Context(), "refs/a/latest", value); err != nil {
		t.Fatal(err)
	}
	value[0] = 'x'
	got, err := r.Load(t.Context(), "refs/a/latest")
	if err != nil {
		t.Fatal(err)
	}
	got[1] = 'x'
	loads(t, r, "refs/a/latest", "value")
}

func testBadKeys(t *testing.T, r store.Records) {
	for _, key := range []string{"", ".", "..", "/refs/a", "refs/a/", "refs//a", "refs/../a", "../refs/a", "refs/./a", "refs/a/..", "refs/a\x00b"} {
		if err := r.Save(t.Context(), key, []byte("x")); err == nil {
			t.Errorf("Save of the invalid key %q: got no error, want one", key)
		}
		if _, err := r.Load(t.Context(), key); err == nil {
			t.Errorf("Load of the invalid key %q: got no error, want one", key)
		}
	}
}

// testConcurrentSave checks that a value is replaced as a whole or not at all.
func testConcurrentSave(t *testing.T, r store.Records) {
	const key = "refs/a/latest"
	save(t, r, key, string(bytes.Repeat([]byte{'0'}, 4096)))
	var all sync.WaitGroup
	for writer := range 4 {
		all.Go(func() {
			for range 25 {
				value := bytes.Repeat([]byte{byte('0' + writer)}, 4096*(writer+1))
				if err := r.Save(context.Background(), key, value); err != nil {
					t.Errorf("save: %v", err)
				}
			}
		})
		all.Go(func() {
			for range 50 {
				value, err := r.Load(context.Background(), key)
				if err != nil || len(value) == 0 {
					t.Errorf("load: %d bytes, %v", len(value), err)
					return
				}
				if len(value) != 4096*(int(value[0]-'0')+1) || bytes.Count(value, value[:1]) != len(value) {
					t.Errorf("a value of %d bytes is a mixture of two", len(value))
				}
			}
		})
	}
	all.Wait()
}

func save(t *testing.T, r store.Records, key, value string) {
	t.Helper()
	if err := r.Save(t.Context(), key, []byte(value)); err != nil {
		t.Fatalf("save %q: %v", key, err)
	}
}

func loads(t *testing.T, r store.Records, key, value string) {
	t.Helper()
	if got, err := r.Load(t.Context(), key); err != nil || string(got) != value {
		t.Fatalf("load %q: %q instead of %q, %v", key, got, value, err)
	}
}
