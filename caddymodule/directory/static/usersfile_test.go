package static

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/crypto/bcrypt"
)

// TestUsersFileBeingWritten: a version is read only a while after its last change.
func TestUsersFileBeingWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	taken := 0
	f := &usersFile{path: file, logger: zap.NewNop(), take: func([]byte) (int, error) { taken++; return 0, nil }}
	write := func(text string, age time.Duration) {
		t.Helper()
		at := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Chtimes(file, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	write("a", 0)
	if err := f.open(); err != nil || taken != 1 {
		t.Fatalf("taken %d times, %v, want once", taken, err)
	}
	write("ab", 0)
	if err := f.renew(); !errors.Is(err, errUnsettled) || taken != 1 {
		t.Errorf("taken %d times, %v", taken, err)
	}
	write("ab", time.Minute)
	if err := errors.Join(f.renew(), f.renew()); err != nil || taken != 2 {
		t.Errorf("taken %d times, %v", taken, err)
	}
	write("ab", 2*time.Minute) // the same again
	if err := f.renew(); err != nil || taken != 2 {
		t.Errorf("taken %d times, %v", taken, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Minute)
	if err := errors.Join(os.Mkdir(file, 0o700), os.Chtimes(file, past, past)); err != nil {
		t.Fatal(err)
	}
	if err := f.renew(); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a folder: %v", err)
	}
}

// fileDirectory returns a directory with a users file and the user bob in the
// configuration, and its log.
func fileDirectory(t *testing.T, file, hash string) (*Directory, *observer.ObservedLogs, error) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	d := &Directory{Users: []*User{{Name: "bob", Hash: hash}}, UsersFile: file}
	err := d.Provision(ctx)
	core, logs := observer.New(zap.InfoLevel)
	if d.file != nil {
		d.file.logger = zap.New(core)
	}
	return d, logs, err
}

// write writes a users file that looks as if it had not been changed for a while.
func write(t *testing.T, file, text string) {
	t.Helper()
	past := time.Now().Add(-time.Minute)
	if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Chtimes(file, past, past)); err != nil {
		t.Fatal(err)
	}
}

// expectAccounts checks which accounts there are after another look at the file.
func expectAccounts(t *testing.T, d *Directory, what string, want map[string]bool) {
	t.Helper()
	d.file.looked.Store(nil)
	for name, known := range want {
		if _, err := d.Lookup(t.Context(), name, ""); (err == nil) != known {
			t.Errorf("%s: %s: got %v, want known %v", what, name, err, known)
		}
	}
}

// TestUsersFileLinks: a mounted secret is a link to a link that is replaced.
func TestUsersFileLinks(t *testing.T) {
	dir, good := t.TempDir(), testHash(t)
	version := func(n int, name string) {
		t.Helper()
		sub := filepath.Join(dir, fmt.Sprintf("..%d", n))
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(sub, "users"), name+":"+good+"\n")
		tmp := filepath.Join(dir, "..tmp")
		if err := errors.Join(os.Symlink(filepath.Base(sub), tmp), os.Rename(tmp, filepath.Join(dir, "..data"))); err != nil {
			t.Fatal(err)
		}
	}
	version(1, "alice")
	if err := os.Symlink("..data/users", filepath.Join(dir, "users")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("USERS_DIR", dir)
	d, _, err := fileDirectory(t, "{env.USERS_DIR}/users", good)
	if err != nil {
		t.Fatal(err)
	}
	expectAccounts(t, d, "the first version", map[string]bool{"alice": true, "carol": false})
	version(2, "carol")
	expectAccounts(t, d, "the second version", map[string]bool{"alice": false, "carol": true})
}

// testHash returns a cheap hash of some password.
func testHash(t *testing.T) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(rand.Text()), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

// TestUsersFileRejects: nothing of a damaged version is used, it is logged once, and no
// error shows a hash. At the start it is an error.
func TestUsersFileRejects(t *testing.T) {
	file, good := filepath.Join(t.TempDir(), "users"), testHash(t)
	write(t, file, "alice:"+good+"\n")
	d, logs, err := fileDirectory(t, file, good)
	if err != nil {
		t.Fatal(err)
	}
	before := map[string]bool{"alice": true, "bob": true, "dave": false}
	argon2id := "$argon2id$v=19$m=47104,t=1,p=1$P2nzckEdTZ3bxCiBCkRTyA$xQL3Z32eo5jKl7u5tcIsnEKObYiyNZQQf5/4sAau6Pg"
	hidden := []string{good[8:30], "P2nzckEdTZ3bxCiBCkRTyA", "xQL3Z32eo5jKl7"}
	for text, want := range map[string]string{
		"dave:" + good + "\nerin:" + good[:40] + "\n":       "line 2: user erin: the bcrypt hash is damaged",
		"dave:" + good + "\n\n#\nerin":                      "line 4: write NAME:HASH",
		"dave:" + good + "\nerin:\n":                        "line 2: user erin: the password hash is neither",
		"dave:" + good + "\nerin:{SHA}x\n":                  "line 2: user erin: the password hash is neither",
		"dave:" + good + "\ndave:" + good + "\n":            "line 2: duplicate user 'dave'",
		"dave:" + good + "\nbob:" + good + "\n":             "line 2: duplicate user 'bob'",
		good + ":dave\n":                                    "line 1: write NAME:HASH",
		"dave " + good + ":x\n":                             "line 1: the name of a user",
		"":                                                  "is empty",
		"dave:" + argon2id[:len(argon2id)-24] + "\n":        "line 1: user dave: the argon2id hash is damaged: it is cut off",
		"dave:" + argon2id[:50]:                             "line 1: user dave: the argon2id hash is damaged",
		"d:" + strings.Replace(argon2id, "t=1", "t=0", 1):   "a parameter is zero",
		"d:" + strings.Replace(argon2id, "p=1", "p=0", 1):   "a parameter is zero",
		"d:" + strings.Replace(argon2id, "m=47104,", "", 1): "invalid parameters",
		"d:" + strings.Replace(argon2id, "v=19$", "", 1):    "invalid hash format",
		"d:" + strings.Replace(argon2id, "v=19$m=47104,t=1,p=1$P2nzckEdTZ3bxCiBCkRTyA", "v=P2nzckEdTZ3bxCiBCkRTyA$m=1,t=1,p=1$", 1): "not a number",
		"d:" + strings.Replace(argon2id, "47104", "4294967295", 1):                                                                  "more than 2 GiB of memory",
		"d:" + strings.Replace(argon2id, "t=1", "t=90", 1):                                                                          "memory times passes of more than 4 GiB",
		"d:" + strings.Replace(argon2id, "p=1", "p=65", 1):                                                                          "more than 64 threads",
		"d:" + strings.Replace(good, "$04$", "$17$", 1):                                                                             "the bcrypt hash has cost 17, which takes too long",
		"dave:" + good + "\n" + strings.Repeat("#", 16<<20):                                                                         "larger than 16 MiB",
	} {
		write(t, file, text)
		for range 3 {
			expectAccounts(t, d, want, before)
		}
		entries := logs.TakeAll()
		if len(entries) != 1 || !strings.Contains(fmt.Sprint(entries[0].ContextMap()["error"]), want) {
			t.Errorf("got the log %v, want %q once", entries, want)
		}
		_, _, err := fileDirectory(t, file, good)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("at the start: got %v, want %q and the file", err, want)
		}
		for _, secret := range hidden {
			if strings.Contains(fmt.Sprint(err, entries), secret) {
				t.Errorf("%s: the error shows a hash: %v, %v", want, err, entries)
			}
		}
	}
	write(t, file, "# nobody\n")
	expectAccounts(t, d, "a file without accounts", map[string]bool{"alice": false, "bob": true})
}
