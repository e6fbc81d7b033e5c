package access

import (
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/gitlab"
)

// TestAccountsIsToken checks which passwords are taken for tokens, with and
// without a GitLab directory that has its own prefix.
func TestAccountsIsToken(t *testing.T) {
	header := "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0."
	for _, token := range []string{
		"glpat-0123456789abcdefghij", "gldt-0123456789abcdefghij", "glcbt-64_0123456789abcdefghij", "dpxy_0123456789abcdefghijABCDEFGHIJ", "ghp_0123456789abcdefghij", header + "c2lnbmF0dXJl",
	} {
		if !new(Accounts).isToken("alice", token) {
			t.Errorf("isToken(%q): got false, want true", token)
		}
	}
	own := NewAccounts(Config{})
	own.Add("gitlab", &gitlab.Directory{TokenPrefix: "acme-"})
	for _, row := range []struct {
		name, password string
		want           bool
	}{
		{"alice", "acme-0123456789abcdefghij", true},
		{"gitlab-ci-token", "0123456789abcdefghij0123", true},
		{"alice", "0123456789abcdefghij0123", false},
		{"gitlab-ci-token", "hunter2", false},
		{"alice", "eyJ.two.dots and more than twenty", false},
	} {
		if got := own.isToken(row.name, row.password); got != row.want {
			t.Errorf("isToken(%q, %q): got %t, want %t", row.name, row.password, got, row.want)
		}
	}
}
