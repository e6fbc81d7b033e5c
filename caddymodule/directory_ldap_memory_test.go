package caddymodule

import (
	"net/http"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
)

// TestLDAPRecycledName: an access token belongs to an entry, and ends when
// another entry gets its name.
func TestLDAPRecycledName(t *testing.T) {
	l := ldaptest.New(t, true)
	s := startWithAdmin(t, l.Directory("cache_for 1ns"), private("acme"))
	secret, _ := s.create("--account", "bob")
	s.get("/v2/", loginAs("x", secret)).expect(t, http.StatusOK, "")
	l.Remove("uid=bob," + ldaptest.People)
	s.get("/v2/", loginAs("x", secret)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	l.Put("uid=bob,"+ldaptest.People, "uid", "bob", "userPassword", "another", "entryUUID", "uuid-other")
	s.get("/v2/", loginAs("x", secret)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}
