package blobcache_test

import (
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
)

// TestReaderOfTruncatedFile checks that a reader fails when its file is truncated while it reads,
// with Read and with WriteTo, and that the next request fetches the content again.
func TestReaderOfTruncatedFile(t *testing.T) {
	for name, read := range map[string]func(r io.Reader) error{
		"sent": func(r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		},
		"read": func(r io.Reader) error {
			_, err := io.Copy(io.Discard, struct{ io.Reader }{r})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				s := e.source(random(101, 300_000))
				e.whole(s)
				synctest.Wait() // until it is stored
				r := e.mustGet(s)
				if _, err := io.CopyN(io.Discard, r, 1000); err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(e.path(s.digest), 200_000); err != nil {
					t.Fatal(err)
				}
				if err := read(r); !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(r.Err(), err) {
					t.Errorf("got the error %v and the reader's error %v, want io.ErrUnexpectedEOF in both", err, r.Err())
				}
				e.whole(s)
				if n := s.fetches(); n != 2 {
					t.Errorf("got %d fetches, want 2", n)
				}
			})
		})
	}
}
