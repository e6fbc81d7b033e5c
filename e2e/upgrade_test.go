//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const (
	// previousCommit is the last commit in which accounts were names without a
	// directory and the cache did not record which upstream had delivered what.
	previousCommit = "b52afea"

	// singleCommit is the last commit without buckets and peers.
	singleCommit = "722351b"
)

// commitBinary builds Caddy with the plugin at a commit, unless a variable of the
// environment names a binary.
func commitBinary(dir, commit, variable string) (string, error) {
	if path := os.Getenv(variable); path != "" {
		return filepath.Abs(path)
	}
	tree := filepath.Join(dir, commit)
	if err := os.Mkdir(tree, 0o755); err != nil {
		return "", err
	}
	build := exec.Command("sh", "-c", `git -C .. archive "$1" | tar -x -C "$2" && "$2/xcaddy.sh" build`, "sh", commit, tree)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("building Caddy of commit %s: %w", commit, err)
	}
	return filepath.Join(tree, "caddy"), nil
}

// TestUpgrade starts the previous binary and then this one with the same
// Caddyfile, cache and tokens. Content of the first upstream is served from the
// cache; content of another one is fetched again once. Clients that are logged in
// with a password, and access tokens, keep working. Refresh tokens end, since the
// previous version prolonged them without a limit.
func TestUpgrade(t *testing.T) {
	first := lab.push.index(t, "library/upgrade", "1", 1<<20, 2<<20)
	other := lab.push.single(t, "team/upgrade", "1", 1<<20)
	body := lab.mainBody() + upstreamBlock("second.example", plainEndpoint) + "token {\n\trefresh_tokens on\n}\n"

	p := newProxy(t)
	p.caddy = lab.previous
	must(t, p.start(body))
	must(t, p.ready(p.answers))
	config := []string{"--config", p.config(), "--adapter", "caddyfile"}
	deploy, err := p.command(t, append([]string{"token", "create", "--group", "acme", "--name", "runner"}, config...)...)
	must(t, err)
	personal, err := p.command(t, append([]string{"token", "create", "--account", "alice"}, config...)...)
	must(t, err)
	token := p.login(t, "alice")
	refreshing := loggedIn(t, p)
	if auth, _ := refreshing.dockerAuth(t, p.host); auth.IdentityToken == "" {
		t.Errorf("Docker keeps %+v, want a refresh token", auth)
	}
	c := loggedInto(t, p)
	second := p.host + "/acme/dependency_proxy/containers/second.example/team/upgrade"
	cranePull(t, c, p.reference("acme", first), first)
	cranePull(t, c, second+":1", other)
	for _, blob := range append(first.blobs(), other.blobs()...) {
		awaitStored(t, p.cache, digest.Digest(blob))
	}
	p.stop()

	p.caddy = lab.caddy
	p.launch(t, body)
	must(t, p.ready(func() error {
		if !strings.Contains(p.output(), `"kept":5,"dropped":3`) {
			return errors.New("the log does not say that 5 links were kept and 3 dropped")
		}
		return nil
	}))
	lab.plain.forget()
	cranePull(t, c, p.reference("acme", first), first)
	lab.plain.wantNoBlobs(t)
	cranePull(t, c, second+":1", other)
	lab.plain.wantOnce(t, other.blobs())
	lab.plain.forget()
	cranePull(t, c, second+":1", other)
	lab.plain.wantNoBlobs(t)
	p.get(t, token, manifestPath("acme", shortName(first), "1")).want(t, http.StatusOK, "")
	if out := refreshing.refuses(t, "docker", "pull", p.reference("acme", first)); !strings.Contains(out, "log in again with: docker login") {
		t.Errorf("docker pull with a refresh token of before says %q, want how to log in again", out)
	}
	refreshing.run(t, "docker", "login", "-u", "alice", "-p", password, p.host)
	dockerPull(t, refreshing, p.reference("acme", first), first)
	for name, token := range map[string]string{"deploy": deploy, "personal": personal} {
		c := newClient(t)
		c.run(t, "crane", "auth", "login", p.host, "-u", "runner", "-p", token)
		cranePull(t, c, p.reference("acme", first), first)
		if strings.Contains(p.output(), token) {
			t.Errorf("the log shows the %s token", name)
		}
	}
	wantSound(t, p.cache)
}
