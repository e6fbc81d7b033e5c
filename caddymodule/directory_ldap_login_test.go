package caddymodule

import (
	"errors"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// provisionLDAP opens a directory at the server.
func provisionLDAP(t *testing.T, l *ldapServer, lines ...string) *LDAPDirectory {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	d := caddyfile.NewTestDispenser(strings.TrimPrefix(l.directory(lines...), "directory "))
	dir := new(LDAPDirectory)
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
		ldapMemories.Range(func(any, any) bool { t.Error("a memory is held after Cleanup"); return true })
	})
	return dir
}

// TestDirectoryRemembersLogin checks that a login that was right and is
// remembered is checked again when the password has changed.
func TestDirectoryRemembersLogin(t *testing.T) {
	l := newLDAP(t, true)
	put := func(secret, changed string) {
		l.put("uid=alice,"+ldapPeople, "uid", "alice", "userPassword", secret, "entryUUID", "uuid-alice", "pwdChangedTime", changed)
	}
	put(ldapPasswordOf("alice"), "1")
	d := provisionLDAP(t, l, "cache_for 1h")
	login := func(want error, binds int) {
		t.Helper()
		l.heard()
		if _, err := d.Authenticate(t.Context(), Login{Name: "alice", Password: ldapPasswordOf("alice")}); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		dns, _ := l.heard()
		if n := strings.Count(strings.Join(dns, "\n"), "uid=alice"); n != binds {
			t.Errorf("got %d binds, want %d", n, binds)
		}
	}
	login(nil, 1)
	login(nil, 0)
	put(ldapPasswordOf("alice"), "2")
	d.memory.accounts.forget("alice")
	login(nil, 1)
	login(nil, 0)
	put("another", "3")
	d.memory.accounts.forget("alice")
	login(ErrWrongPassword, 1)
}
