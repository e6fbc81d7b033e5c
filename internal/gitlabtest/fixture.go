package gitlabtest

import "testing"

// NewAcme returns an instance with the users alice, a developer of acme, and bob, a member
// of no group, and their tokens. The groups acme, acme/Sub and others are private, inner is
// internal, and open is public.
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
