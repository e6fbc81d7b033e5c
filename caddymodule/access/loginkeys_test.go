package access

import (
	"fmt"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// TestThrottleHomeNames: a login of another directory's account, or with a token, does
// not make its address a home of the account that failed logins are counted for.
func TestThrottleHomeNames(t *testing.T) {
	for what, row := range map[string]struct{ name, secret string }{
		"another spelling":   {"ROOT", "right"},
		"GitLab's root":      {"root", "glpat-right-token-of-another-root"},
		"a token of our own": {"root", accesstoken.Prefix + "right-0123456789-0123456789"},
	} {
		g := newGuard(t)
		checked := 0
		for i := range 10 {
			address := fmt.Sprint("198.51.100.", i)
			a, refusal := g.admit(address, row.name, row.secret, !new(Accounts).isToken(row.name, row.secret))
			if refusal != nil {
				t.Fatal(what, refusal)
			}
			a.accepted()
			a.release()
		}
		for i := range 10 {
			checked += g.guess(10, fmt.Sprint("198.51.100.", i), "root")
		}
		g.expect("guesses at root after logins by "+what, checked, accountBurst)
	}
}
