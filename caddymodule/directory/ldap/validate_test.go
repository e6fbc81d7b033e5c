package ldap

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// TestDirectoryCheck: mistakes that are possible only in JSON are rejected.
func TestDirectoryCheck(t *testing.T) {
	good := Directory{Servers: []string{"ldaps://ldap.example.com"}, UserDN: "uid=%s,dc=x", GroupBaseDN: "dc=x"}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Directory){
		"is null":                func(l *Directory) { l.Map = []*Group{nil} },
		"no DN":                  func(l *Directory) { l.Map = []*Group{{Group: "acme"}} },
		"unknown role 'no role'": func(l *Directory) { l.Map = []*Group{{DN: "cn=x", Group: "acme", Role: "no role"}} },
		"empty DN":               func(l *Directory) { l.Admins = []string{""} },
		"negative":               func(l *Directory) { l.Grace = -1 },
		"at least 1":             func(l *Directory) { l.Pool = -1 },
		"verified":               func(l *Directory) { l.TLS = &reverseproxy.TLSConfig{InsecureSkipVerify: true} },
		"missing server":         func(l *Directory) { l.Servers = nil },
	} {
		bad := Directory{Servers: good.Servers, UserDN: good.UserDN, GroupBaseDN: good.GroupBaseDN}
		change(&bad)
		if err := bad.check(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, want %q", err, what)
		}
	}
}
