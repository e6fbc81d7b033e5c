package caddymodule

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/static"
)

// TestHashesPerLogin: a wrong password costs one hash whether the account
// exists or not, and none again within a minute; a right one costs one, and none from then on.
func TestHashesPerLogin(t *testing.T) {
	anns := rand.Text()
	a := access.NewAccounts(access.Config{})
	a.Add("static", hexStatic(t, &static.User{Name: "ann", Hash: hexOf(anns)}, &static.User{Name: "ben", Hash: hexOf("ben's")}))
	long := strings.Repeat("x", 73)
	for _, row := range []struct {
		name, password string
		err            error
		hashes         int32
	}{
		{"ann", "wrong", directory.ErrWrongPassword, 1}, {"ann", "wrong", directory.ErrWrongPassword, 0}, // that it is wrong is remembered
		{"nobody", "wrong", directory.ErrUnknownAccount, 1}, {"nobody", "wrong", directory.ErrUnknownAccount, 0}, {"", "", directory.ErrUnknownAccount, 1},
		{"ann", long, directory.ErrWrongPassword, 1}, {"nobody", long, directory.ErrUnknownAccount, 1},
		{"ann", anns, nil, 1}, {"ann", anns, nil, 0}, {"ben", anns, directory.ErrWrongPassword, 1}, {"ann", "wrong too", directory.ErrWrongPassword, 1},
	} {
		hexCompared.Store(0)
		_, err := a.Authenticate(t.Context(), directory.Login{Name: row.name, Password: row.password})
		if !errors.Is(err, row.err) || hexCompared.Load() != row.hashes {
			t.Errorf("%s with %.10q: %v after %d hashes, instead of %v after %d", row.name, row.password, err, hexCompared.Load(), row.err, row.hashes)
		}
	}
}
