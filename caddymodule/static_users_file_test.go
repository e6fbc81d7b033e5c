package caddymodule

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// TestUsersFile checks that the accounts are those of the last complete version
// of a users file within a second, however it is replaced, and that a reload
// changes nothing.
func TestUsersFile(t *testing.T) {
	s := newSite(t)
	file := filepath.Join(s.dir, "users")
	writeFile(t, file, "\ufeff# the team\r\n\n  alice: "+hash(passwordOf("alice"))+"\r\n"+strings.Replace(usersText("bob"), "$2a$", "$2y$", 1))
	lines := []string{users("carol"), "directory static {\n name more\n users_file " + file + "\n}", visible("acme", directory.Internal)}
	s.load(lines...)
	is := func(name string, status int) bool { return s.get("/v2/", as(name)).StatusCode == status }
	become := func(what, name string, status int) {
		t.Helper()
		due := time.Now().Add(time.Second)
		eventually(t, what, func() bool {
			late, done := time.Now().After(due), is(name, status)
			if late && !done {
				t.Fatalf("%s: not after 1s", what)
			}
			return done
		})
	}
	if !is("alice", 200) || !is("bob", 200) || !is("carol", 200) || !is("dave", 401) {
		t.Error("got other accounts, want those of the file and of the configuration")
	}
	token := s.token("alice")

	writeFile(t, file, usersText("bob", "dave")) // in place
	become("dave is read", "dave", 200)
	s.get("/v2/", bearer(token)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")

	writeFile(t, file+".new", usersText("alice", "bob")) // renamed over, and with an old time
	backdate(t, file+".new")
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	become("alice is back", "alice", 200)
	s.get("/v2/", bearer(token)).expect(t, http.StatusOK, "")
	if !is("dave", 401) {
		t.Error("got a login of dave, who is no longer in the file, want a refusal")
	}

	if err := os.Remove(file); err != nil { // gone
		t.Fatal(err)
	}
	eventually(t, "the loss is logged", func() bool {
		return is("alice", 200) && strings.Contains(s.logs(), "no such file")
	})
	if err := s.tryLoad(append(lines, "blocked dave")...); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a configuration with a lost file: got %v, want an error with the file", err)
	}
	if !is("alice", 200) {
		t.Error("got other accounts after a failed reload, want the same")
	}
	writeFile(t, file, usersText("dave"))
	become("the file is back", "dave", 200)
	s.load(append(lines, "blocked bob")...)
	if !is("dave", 200) || !is("alice", 401) {
		t.Error("got other accounts after a reload, want those of the file that are not blocked")
	}
}

// TestUsersFileOfTwoSites checks that two sites with the same users file read
// it independently.
func TestUsersFileOfTwoSites(t *testing.T) {
	s := newSite(t)
	file := filepath.Join(s.dir, "users")
	writeFile(t, file, usersText("alice"))
	directive := "directory static {\n users_file " + file + "\n}\n" + visible("acme", directory.Internal)
	s.before = "handle_path /two/* {\n dependency_proxy {\n" + directive + "}\n}"
	s.load(directive)
	for _, names := range [][2]string{{"alice", "bob"}, {"bob", "alice"}} {
		writeFile(t, file, usersText(names[0]))
		for _, path := range []string{"/v2/", "/two/v2/"} {
			eventually(t, names[0]+" is read", func() bool { return s.get(path, as(names[0])).StatusCode == http.StatusOK })
			s.get(path, as(names[1])).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		}
	}
}
