package gitlabtest

import (
	"testing"
)

// NewAcme is an instance with alice, a developer of acme, and bob, who is
// nobody's member. The groups are acme and acme/Sub, private, others, private,
// inner, internal, and open, public.
func NewAcme(t *testing.T) (g *GitLab, alice, bob string) {
	g = New(t)
	alice, bob = g.AddUser(24, "alice"), g.AddUser(25, "bob")
	g.AddGroup(1, "acme", "private", 24)
	g.AddGroup(2, "acme/Sub", "private")
	g.AddGroup(3, "others", "private")
	g.AddGroup(4, "inner", "internal")
	g.AddGroup(5, "open", "public")
	return g, alice, bob
}
