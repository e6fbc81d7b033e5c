package store

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// FuzzRecord checks that no key names a file outside of the root, a file of content, a temporary
// file, or the file of another key.
func FuzzRecord(f *testing.F) {
	for _, key := range []string{"refs/a/_/latest", "links/a/b/_/sha256/ff", "", ".", "..", "a/..", "../a", "/a", "a//b", "a/", "a\x00", `a\..\b`, "blobs/x", "TMP/x", "a/./b", "C:/x"} {
		f.Add(key)
	}
	s := &FileStore{root: filepath.FromSlash("/var/cache")}
	f.Fuzz(func(t *testing.T, key string) {
		name, err := s.record(key)
		if err != nil {
			return
		}
		rel := within(t, s, name)
		if back := filepath.ToSlash(rel); back != key {
			t.Errorf("%q has the file of %q", key, back)
		}
		for _, reserved := range []string{"blobs", "tmp"} {
			if top, _, _ := strings.Cut(filepath.ToSlash(rel), "/"); strings.EqualFold(top, reserved) {
				t.Errorf("%q has a file in the folder %s", key, reserved)
			}
		}
	})
}

// FuzzContent checks that no digest names a file outside of the folder of content, or the file of
// another digest.
func FuzzContent(f *testing.F) {
	for _, d := range []string{digest.FromString("x").String(), digest.SHA512.FromString("x").String(), "", "sha256", "sha256:", "sha256:a", "sha256:../..", "../x:ab", "sha256:" + strings.Repeat("/", 64)} {
		f.Add(d)
	}
	s := &FileStore{root: filepath.FromSlash("/var/cache")}
	f.Fuzz(func(t *testing.T, text string) {
		d := digest.Digest(text)
		name, err := s.content(d)
		if err != nil {
			return
		}
		rel := within(t, s, name)
		parts := strings.Split(filepath.ToSlash(rel), "/")
		if len(parts) != 4 || parts[0] != "blobs" || parts[1]+":"+parts[3] != text || !strings.HasPrefix(parts[3], parts[2]) {
			t.Errorf("%q is at %s", text, name)
		}
	})
}

// FuzzParseContent checks that Walk takes no file for content that Open would not find there.
func FuzzParseContent(f *testing.F) {
	hex := digest.FromString("x").Encoded()
	f.Add("sha256", hex[:2], hex)
	f.Add("sha256", "zz", hex)
	f.Add("sha512", hex[:2], hex)
	f.Add("sha512", "", digest.SHA512.FromString("x").Encoded())
	f.Add("md5", "..", "..")
	f.Add("sha256", "", "")
	s := &FileStore{root: filepath.FromSlash("/var/cache")}
	f.Fuzz(func(t *testing.T, algorithm, folder, name string) {
		d, ok := parseContent(digest.Algorithm(algorithm), folder, name)
		if !ok {
			return
		}
		path, err := s.content(d)
		if want := filepath.Join(s.root, "blobs", algorithm, folder, name); err != nil || path != want {
			t.Errorf("the file of %s: got %s and the error %v, want %s", d, path, err, want)
		}
	})
}

func within(t *testing.T, s *FileStore, name string) string {
	t.Helper()
	rel, err := filepath.Rel(s.root, name)
	if err != nil || !filepath.IsLocal(rel) || rel == "." {
		t.Fatalf("%s leaves the root: %v", name, err)
	}
	return rel
}
