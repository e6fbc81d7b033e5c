//go:build e2e

package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestAuthorization pulls with each account from each kind of group.
func TestAuthorization(t *testing.T) {
	img := lab.push.index(t, "library/decision", "1", 1<<10)
	denied := []int{http.StatusForbidden}
	granted := []int{http.StatusOK}
	// A client without a login may be asked to log in, or be denied.
	loginFirst := []int{http.StatusUnauthorized, http.StatusForbidden}
	for _, c := range []struct {
		account, group string
		want           []int
	}{
		{"alice", "acme", granted},
		{"alice", "acme/platform", granted}, // members are members of the subgroups
		{"alice", "acme/unheard-of", denied},
		{"bob", "acme", denied},
		{"bob", "acme/platform", granted},
		{"carol", "acme", denied},
		{"carol", "acme/platform", denied},
		{"carol", "house", granted},
		{"carol", "open", granted},
		{"carol", "nowhere", denied},
		{"", "open", granted},
		{"", "house", loginFirst},
		{"", "acme", loginFirst},
		{"", "nowhere", loginFirst},
	} {
		t.Run(c.account+" in "+c.group, func(t *testing.T) {
			token := lab.main.login(t, c.account)
			got := lab.main.get(t, token, manifestPath(c.group, shortName(img), "1"))
			if !slices.Contains(c.want, got.status) {
				t.Errorf("answered %d %s, want %v", got.status, got.body, c.want)
			}
			if got.status == http.StatusForbidden && got.code() != "DENIED" {
				t.Errorf("denied with %s", got.body)
			}
		})
	}
}

// TestUnknownGroupAnswersLikeForbiddenGroup verifies that a client cannot find out
// which groups exist.
func TestUnknownGroupAnswersLikeForbiddenGroup(t *testing.T) {
	img := lab.push.index(t, "library/alike", "1", 1<<10)
	for _, account := range []string{"carol", ""} {
		token := lab.main.login(t, account)
		forbidden := lab.main.get(t, token, manifestPath("acme", shortName(img), "1"))
		unknown := lab.main.get(t, token, manifestPath("emca", shortName(img), "1"))
		if forbidden.status != unknown.status {
			t.Errorf("a forbidden group answers %d, an unknown one %d", forbidden.status, unknown.status)
		}
		if got := strings.ReplaceAll(string(unknown.body), "emca", "acme"); got != string(forbidden.body) {
			t.Errorf("a forbidden group answers %s, an unknown one %s", forbidden.body, unknown.body)
		}
		for name := range forbidden.header {
			got := strings.ReplaceAll(unknown.header.Get(name), "emca", "acme")
			if want := forbidden.header.Get(name); name != "Date" && got != want {
				t.Errorf("%s: a forbidden group answers %q, an unknown one %q", name, want, got)
			}
		}
	}
}

// TestDenialMessage verifies the message that users see when a pull is denied.
func TestDenialMessage(t *testing.T) {
	img := lab.push.index(t, "library/denied", "1", 1<<10)
	reference := lab.main.reference("acme", img)
	c := newClient(t)
	c.run(t, "docker", "login", "-u", "carol", "-p", password, proxyName)
	for _, pull := range [][]string{
		{"docker", "pull", reference},
		{"crane", "manifest", reference},
		{"skopeo", "inspect", "docker://" + reference},
		{"ctr", "images", "pull", "--user", "carol:" + password, reference},
	} {
		if out := c.refuses(t, pull...); !strings.Contains(strings.ToLower(out), "denied") &&
			!strings.Contains(out, "403 Forbidden") {
			t.Errorf("%s says %q", pull[0], out)
		}
	}
}

// TestPublicGroupWithoutLogin pulls with a client that has never logged in.
func TestPublicGroupWithoutLogin(t *testing.T) {
	img := lab.push.index(t, "library/public", "1", 1<<20)
	c := newClient(t)
	reference := lab.main.reference("open", img)
	dockerPull(t, c, reference, img)
	skopeoPull(t, c, reference, img)
	cranePull(t, c, reference, img)
	podmanPull(t, c, reference, img)
	c.run(t, "ctr", "images", "pull", "--snapshotter", "native", reference)
	c.run(t, "ctr", "images", "rm", "--sync", reference)
	out := c.refuses(t, "docker", "pull", lab.main.reference("acme", img))
	if low := strings.ToLower(out); !strings.Contains(low, "denied") && !strings.Contains(low, "unauthorized") {
		t.Errorf("a private group without a login: docker says %q", out)
	}
}

// TestBlobBelongsToRepository verifies that a digest is not a capability: a blob
// that one group has pulled is not served to another group, nor for another
// repository of the same group.
func TestBlobBelongsToRepository(t *testing.T) {
	img := lab.push.index(t, "library/belongs", "1", 1<<10)
	lab.push.index(t, "library/elsewhere", "1", 1<<10)
	alice := lab.main.login(t, "alice")
	for _, path := range []string{
		manifestPath("acme", shortName(img), "1"),
		manifestPath("acme", shortName(img), img.manifest.String()),
		blobPath("acme", shortName(img), img.config.String()),
	} {
		lab.main.get(t, alice, path).want(t, http.StatusOK, "")
	}
	lab.main.get(t, lab.main.login(t, "carol"), blobPath("acme", shortName(img), img.config.String())).
		want(t, http.StatusForbidden, "DENIED")
	lab.main.get(t, alice, blobPath("acme", "elsewhere", img.config.String())).
		want(t, http.StatusNotFound, "BLOB_UNKNOWN")
}

// TestKillSwitch turns private groups off, which leaves the public ones.
func TestKillSwitch(t *testing.T) {
	img := lab.push.index(t, "library/switch", "1", 1<<10)
	p := startProxy(t, lab.mainBody())
	alice := p.login(t, "alice")
	ask := func(group string) answer { return p.get(t, alice, manifestPath(group, shortName(img), "1")) }
	ask("acme").want(t, http.StatusOK, "")

	p.mustReload(t, lab.mainBody()+"private_groups off\n")
	ask("acme").want(t, http.StatusForbidden, "DENIED")
	ask("house").want(t, http.StatusForbidden, "DENIED")
	ask("open").want(t, http.StatusOK, "")

	p.mustReload(t, lab.mainBody())
	ask("acme").want(t, http.StatusOK, "")
}

// TestRemovedMember verifies that a token does not help an account after the
// reload that removes it from the group, or from the site.
func TestRemovedMember(t *testing.T) {
	img := lab.push.index(t, "library/removed", "1", 1<<10)
	p := startProxy(t, lab.mainBody())
	alice := p.login(t, "alice")
	path := manifestPath("acme", shortName(img), "1")
	p.get(t, alice, path).want(t, http.StatusOK, "")

	p.mustReload(t, strings.Replace(lab.mainBody(), "members alice", "members carol", 1))
	p.get(t, alice, path).want(t, http.StatusForbidden, "DENIED")
	p.get(t, alice, blobPath("acme", shortName(img), img.config.String())).want(t, http.StatusForbidden, "DENIED")
	p.get(t, p.login(t, "carol"), path).want(t, http.StatusOK, "")

	// A token of a removed account is invalid.
	gone := strings.Replace(lab.mainBody(), "user carol "+lab.hashes["carol"]+"\n", "", 1)
	carol := p.login(t, "carol")
	p.mustReload(t, gone)
	if got := p.get(t, carol, manifestPath("house", shortName(img), "1")); got.status == http.StatusOK {
		t.Error("the token of an account that is gone still pulls")
	}
}
