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

// dockerAuth is a login in Docker's configuration file.
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

// TestRefreshTokens verifies that with refresh tokens Docker stores one instead of
// the password and pulls with it, and that without them it stores the password.
// After a change of the setting users can log in again.
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
	// Clients that read Docker's file can POST the token too.
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

	// A login from before the change remains valid. The token of a removed account
	// does not.
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
