package access

import (
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// TestCallerAsker checks that an anonymous client is identified by its IPv4
// address or /64, and an account by directory and name.
func TestCallerAsker(t *testing.T) {
	for _, row := range []struct {
		who     Caller
		address string
		want    directory.Asker
	}{
		{Caller{Anonymous: true}, "192.0.2.1", directory.Asker{Subnet: "192.0.2.1"}},
		{Caller{Anonymous: true}, "2001:db8::ffff", directory.Asker{Subnet: "2001:db8::/64"}},
		{Caller{Directory: "ldap", Account: directory.Account{Name: "alice"}}, "192.0.2.1", directory.Asker{Directory: "ldap", Name: "alice"}},
	} {
		if got := row.who.Asker(row.address); got != row.want {
			t.Errorf("asker of %s: got %+v, want %+v", row.address, got, row.want)
		}
	}
}
