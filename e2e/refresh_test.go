//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// dockerAuth is what Docker keeps of a login.
type dockerAuth struct{ Auth, IdentityToken string }

func (c *client) dockerFile() string { return filepath.Join(c.home, ".docker", "config.json") }

func (c *client) dockerAuth(t *testing.T, host string) (auth dockerAuth, ok bool) {
	t.Helper()
	data, err := os.ReadFile(c.dockerFile())
	must(t, err)
	var file struct{ Auths map[string]dockerAuth }
	must(t, json.Unmarshal(data, &file))
	auth, ok = file.Auths[host]
	return auth, ok
}

// TestRefreshTokens: with refresh tokens Docker keeps one and forgets the
// password, and pulls with it; without them it keeps the password. A change of
// the setting makes people log in again, and leaves nobody with what is stuck.
func TestRefreshTokens(t *testing.T) {
	img := lab.push.single(t, "library/refresh", "1", 1<<10)
	on := lab.mainBody() + "token {\n\trefresh_tokens on\n}\n"
	p := startProxy(t, on)
	login := []string{"docker", "login", "-u", "alice", "-p", password, p.host}
	reference := p.reference("acme", img)
	wantPassword := base64.StdEncoding.EncodeToString([]byte("alice:" + password))
	wantNone := base64.StdEncoding.EncodeToString([]byte("alice:"))

	c := newClient(t)
	c.run(t, login...)
	if auth, _ := c.dockerAuth(t, p.host); auth.IdentityToken == "" || auth.Auth != wantNone {
		t.Errorf("with refresh tokens Docker keeps %+v", auth)
	}
	dockerPull(t, c, reference, img)
	// Others that find Docker's file can POST the token as well.
	c.run(t, "skopeo", "inspect", "--authfile", c.dockerFile(), "docker://"+reference)
	c.run(t, "docker", "logout", p.host)
	if auth, ok := c.dockerAuth(t, p.host); ok {
		t.Errorf("after logout Docker keeps %+v", auth)
	}
	c.refuses(t, "docker", "pull", reference)

	c.run(t, login...)
	p.mustReload(t, lab.mainBody())
	out := c.refuses(t, "docker", "pull", reference)
	if !regexp.MustCompile(`refresh tokens are off; log in again with: docker login`).MatchString(out) {
		t.Errorf("with a token of before docker says %q", out)
	}
	c.run(t, "docker", "logout", p.host)
	c.run(t, login...)
	if auth, _ := c.dockerAuth(t, p.host); auth.IdentityToken != "" || auth.Auth != wantPassword {
		t.Errorf("without refresh tokens Docker keeps %+v", auth)
	}
	dockerPull(t, c, reference, img)

	// A login of before goes on with refresh tokens on, and an account that is
	// gone has no use for its token.
	p.mustReload(t, on)
	dockerPull(t, c, reference, img)
	c.run(t, login...)
	if auth, _ := c.dockerAuth(t, p.host); auth.IdentityToken == "" {
		t.Errorf("with refresh tokens on again Docker keeps %+v", auth)
	}
	p.mustReload(t, on+"blocked alice\n")
	c.refuses(t, "docker", "pull", reference)
	p.mustReload(t, on)
	dockerPull(t, c, reference, img)
}
