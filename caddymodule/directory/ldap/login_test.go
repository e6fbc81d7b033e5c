package ldap

import (
	"errors"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
)

// provisionLDAP returns a directory that searches a server, with further lines.
func provisionLDAP(t *testing.T, l *ldaptest.Server, lines ...string) *Directory {
	t.Helper()
	return provisionBlock(t, l.Directory(lines...))
}

// provisionBlock returns the directory of a block.
func provisionBlock(t *testing.T, block string) *Directory {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	d := caddyfile.NewTestDispenser(strings.TrimPrefix(block, "directory "))
	dir := new(Directory)
	if err := dir.UnmarshalCaddyfile(d); err != nil {
		t.Fatal(err)
	}
	if err := dir.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dir.Cleanup(); err != nil {
			t.Error(err)
		}
		if n := len(memories.All()); n != 0 {
			t.Errorf("after Cleanup %d memories are held, want none", n)
		}
	})
	return dir
}

// TestDirectoryRemembersLogin: a remembered login is checked again when the password has
// changed.
func TestDirectoryRemembersLogin(t *testing.T) {
	l := ldaptest.New(t, true)
	put := func(secret, changed string) {
		l.Put("uid=alice,"+ldaptest.People, "uid", "alice", "userPassword", secret, "entryUUID", "uuid-alice", "pwdChangedTime", changed)
	}
	put(ldaptest.PasswordOf("alice"), "1")
	d := provisionLDAP(t, l, "cache_for 1h")
	expect := func(want error, binds int) {
		t.Helper()
		l.Heard()
		if _, err := d.Authenticate(t.Context(), directory.Login{Name: "alice", Password: ldaptest.PasswordOf("alice")}); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		dns, _ := l.Heard()
		if n := strings.Count(strings.Join(dns, "\n"), "uid=alice"); n != binds {
			t.Errorf("got %d binds, want %d", n, binds)
		}
	}
	expect(nil, 1)
	expect(nil, 0)
	put(ldaptest.PasswordOf("alice"), "2")
	d.memory.accounts.Forget("alice")
	expect(nil, 1)
	expect(nil, 0)
	put("another", "3")
	d.memory.accounts.Forget("alice")
	expect(directory.ErrWrongPassword, 1)
}
