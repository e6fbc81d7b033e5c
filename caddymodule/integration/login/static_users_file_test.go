package login

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
)

// TestUsersFile checks that the accounts are those of the last complete version
// of a users file within a second, however it is replaced, and that a reload
// changes nothing.
func TestUsersFile(t *testing.T) {
	s := sitetest.NewSite(t)
	file := filepath.Join(s.Dir, "users")
	sitetest.WriteFile(t, file, "\ufeff# the team\r\n\n  alice: "+sitetest.Hash(sitetest.PasswordOf("alice"))+"\r\n"+strings.Replace(sitetest.UsersText("bob"), "$2a$", "$2y$", 1))
	lines := []string{sitetest.Users("carol"), "directory static {\n name more\n users_file " + file + "\n}", sitetest.Visible("acme", directory.Internal)}
	s.Load(lines...)
	is := func(name string, status int) bool { return s.Get("/v2/", sitetest.As(name)).StatusCode == status }
	become := func(what, name string, status int) {
		t.Helper()
		due := time.Now().Add(time.Second)
		sitetest.Eventually(t, what, func() bool {
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
	token := s.Token("alice")

	sitetest.WriteFile(t, file, sitetest.UsersText("bob", "dave")) // in place
	become("dave is read", "dave", 200)
	s.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")

	sitetest.WriteFile(t, file+".new", sitetest.UsersText("alice", "bob")) // renamed over, and with an old time
	sitetest.Backdate(t, file+".new")
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	become("alice is back", "alice", 200)
	s.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	if !is("dave", 401) {
		t.Error("got a login of dave, who is no longer in the file, want a refusal")
	}

	if err := os.Remove(file); err != nil { // gone
		t.Fatal(err)
	}
	sitetest.Eventually(t, "the loss is logged", func() bool {
		return is("alice", 200) && strings.Contains(s.Logs(), "no such file")
	})
	if err := s.TryLoad(append(lines, "blocked dave")...); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a configuration with a lost file: got %v, want an error with the file", err)
	}
	if !is("alice", 200) {
		t.Error("got other accounts after a failed reload, want the same")
	}
	sitetest.WriteFile(t, file, sitetest.UsersText("dave"))
	become("the file is back", "dave", 200)
	s.Load(append(lines, "blocked bob")...)
	if !is("dave", 200) || !is("alice", 401) {
		t.Error("got other accounts after a reload, want those of the file that are not blocked")
	}
}

// TestUsersFileOfTwoSites checks that two sites with the same users file read
// it independently.
func TestUsersFileOfTwoSites(t *testing.T) {
	s := sitetest.NewSite(t)
	file := filepath.Join(s.Dir, "users")
	sitetest.WriteFile(t, file, sitetest.UsersText("alice"))
	directive := "directory static {\n users_file " + file + "\n}\n" + sitetest.Visible("acme", directory.Internal)
	s.Before = "handle_path /two/* {\n dependency_proxy {\n" + directive + "}\n}"
	s.Load(directive)
	for _, names := range [][2]string{{"alice", "bob"}, {"bob", "alice"}} {
		sitetest.WriteFile(t, file, sitetest.UsersText(names[0]))
		for _, path := range []string{"/v2/", "/two/v2/"} {
			sitetest.Eventually(t, names[0]+" is read", func() bool { return s.Get(path, sitetest.As(names[0])).StatusCode == http.StatusOK })
			s.Get(path, sitetest.As(names[1])).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		}
	}
}
