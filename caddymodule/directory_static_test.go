package caddymodule

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// usersText is a users file of these accounts.
func usersText(names ...string) string {
	var text strings.Builder
	for _, name := range names {
		text.WriteString(name + ":" + hash(passwordOf(name)) + "\n")
	}
	return text.String()
}

// settled makes a file look as if nobody were still writing it.
func settled(t *testing.T, name string) {
	t.Helper()
	past := time.Now().Add(-time.Minute)
	if err := os.Chtimes(name, past, past); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestUsersFile: whatever way a users file is replaced, the accounts are those
// of its last whole version, in under a second, and a reload changes nothing.
func TestUsersFile(t *testing.T) {
	s := newSite(t)
	file := filepath.Join(s.dir, "users")
	write(t, file, "\ufeff# the team\r\n\n  alice: "+hash(passwordOf("alice"))+"\r\n"+strings.Replace(usersText("bob"), "$2a$", "$2y$", 1))
	lines := []string{users("carol"), "directory static {\n name more\n users_file " + file + "\n}", visible("acme", directory.Internal)}
	s.load(lines...)
	is := func(name string, status int) bool { return s.get("/v2/", as(name)).StatusCode == status }
	become := func(what, name string, status int) {
		t.Helper()
		begin := time.Now()
		eventually(t, what, func() bool { return is(name, status) })
		if took := time.Since(begin); took > time.Second {
			t.Errorf("%s took %v", what, took)
		}
	}
	if !is("alice", 200) || !is("bob", 200) || !is("carol", 200) || !is("dave", 401) {
		t.Error("the accounts are not those of the file and the configuration")
	}
	token := s.token("alice")

	write(t, file, usersText("bob", "dave")) // in place
	become("dave is read", "dave", 200)
	s.get("/v2/", bearer(token)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")

	write(t, file+".new", usersText("alice", "bob")) // renamed over, and with an old time
	settled(t, file+".new")
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	become("alice is back", "alice", 200)
	s.get("/v2/", bearer(token)).expect(t, http.StatusOK, "")
	if !is("dave", 401) {
		t.Error("dave is still there")
	}

	if err := os.Remove(file); err != nil { // gone
		t.Fatal(err)
	}
	eventually(t, "the loss is logged", func() bool {
		return is("alice", 200) && strings.Contains(s.logs(), "no such file")
	})
	if err := s.tryLoad(append(lines, "blocked dave")...); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a configuration with a lost file: %v", err)
	}
	if !is("alice", 200) {
		t.Error("a failed reload has changed the accounts")
	}
	write(t, file, usersText("dave"))
	become("the file is back", "dave", 200)
	s.load(append(lines, "blocked bob")...)
	if !is("dave", 200) || !is("alice", 401) {
		t.Error("after a reload the accounts are others")
	}
}

// TestUsersFileOfTwoSites: each site reads a file that they share for itself.
func TestUsersFileOfTwoSites(t *testing.T) {
	s := newSite(t)
	file := filepath.Join(s.dir, "users")
	write(t, file, usersText("alice"))
	directive := "directory static {\n users_file " + file + "\n}\n" + visible("acme", directory.Internal)
	s.before = "handle_path /two/* {\n dependency_proxy {\n" + directive + "}\n}"
	s.load(directive)
	for _, names := range [][2]string{{"alice", "bob"}, {"bob", "alice"}} {
		write(t, file, usersText(names[0]))
		for _, path := range []string{"/v2/", "/two/v2/"} {
			eventually(t, names[0]+" is read", func() bool { return s.get(path, as(names[0])).StatusCode == http.StatusOK })
			s.get(path, as(names[1])).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		}
	}
}

// TestUsersFileLinks: a mounted secret is a link to a link that is replaced.
func TestUsersFileLinks(t *testing.T) {
	s := newSite(t)
	version := func(n int, names ...string) {
		t.Helper()
		dir := filepath.Join(s.dir, fmt.Sprintf("..%d", n))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "users"), usersText(names...))
		settled(t, filepath.Join(dir, "users"))
		if err := os.Symlink(filepath.Base(dir), filepath.Join(s.dir, "..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(s.dir, "..tmp"), filepath.Join(s.dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version(1, "alice")
	if err := os.Symlink("..data/users", filepath.Join(s.dir, "users")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("USERS_DIR", s.dir)
	s.load("directory static {\n users_file {env.USERS_DIR}/users\n}", visible("acme", directory.Internal))
	s.get("/v2/", as("alice")).expect(t, http.StatusOK, "")
	version(2, "bob")
	eventually(t, "the link is followed", func() bool { return s.get("/v2/", as("bob")).StatusCode == http.StatusOK })
	s.get("/v2/", as("alice")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestBadUsersFile: nothing of a bad version counts, and of a hash nothing is
// shown. The same is refused at the start.
func TestBadUsersFile(t *testing.T) {
	s := newSite(t)
	file := filepath.Join(s.dir, "users")
	write(t, file, usersText("alice"))
	good := hash(passwordOf("dave"))
	lines := []string{"directory static {\n user bob " + hash(passwordOf("bob")) + "\n users_file " + file + "\n}", visible("acme", directory.Internal)}
	s.load(lines...)
	argon2id := "$argon2id$v=19$m=47104,t=1,p=1$P2nzckEdTZ3bxCiBCkRTyA$xQL3Z32eo5jKl7u5tcIsnEKObYiyNZQQf5/4sAau6Pg"
	hidden := []string{good[8:30], "P2nzckEdTZ3bxCiBCkRTyA", "xQL3Z32eo5jKl7"}
	s.secret(hidden...)
	for text, what := range map[string]string{
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
		before := len(s.logs())
		write(t, file, text)
		settled(t, file)
		eventually(t, what+" is logged", func() bool {
			s.get("/v2/", as("alice")).expect(t, http.StatusOK, "")
			return strings.Contains(s.logs()[before:], what)
		})
		s.get("/v2/", as("dave")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		for _, name := range []string{"alice", "bob"} {
			s.get("/v2/", as(name)).expect(t, http.StatusOK, "")
		}
		if n := strings.Count(s.logs()[before:], "cannot use"); n != 1 {
			t.Errorf("%s: logged %d times", what, n)
		}
		err := s.tryLoad(append(lines, "blocked carol")...)
		if err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s is told at the start as %v", what, err)
		}
		for _, secret := range hidden {
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%s: a hash is shown: %v", what, err)
			}
		}
	}
	write(t, file, "# nobody\n")
	eventually(t, "nobody is left", func() bool { return s.get("/v2/", as("alice")).StatusCode == http.StatusUnauthorized })
}
