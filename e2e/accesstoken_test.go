//go:build e2e

package e2e

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// command runs `caddy dependency-proxy` against the running proxy and returns its
// standard output.
func (p *proxy) command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(p.caddy, append([]string{"dependency-proxy"}, args...)...)
	cmd.Env = plainEnv(p.dir)
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// TestAccessToken pulls with a deploy token that the command created, until the
// command revokes it.
func TestAccessToken(t *testing.T) {
	img := lab.push.single(t, "library/access-token", "1", 1<<10)
	p := startProxy(t, lab.mainBody())
	config := []string{"--config", p.config(), "--adapter", "caddyfile"}
	token, err := p.command(t, append([]string{"token", "create", "--group", "acme", "--name", "runner"}, config...)...)
	if err != nil || !regexp.MustCompile(`^dpxy_[0-9A-Za-z]{39}$`).MatchString(token) {
		t.Fatalf("token create prints %q: %v", token, err)
	}
	for _, login := range [][]string{{"docker", "login"}, {"skopeo", "login"}, {"oras", "login", "--plain-http=false"}} {
		newClient(t).run(t, append(login, "-u", "runner", "-p", token, p.host)...)
	}
	c := newClient(t)
	c.run(t, "docker", "login", "-u", "runner", "-p", token, p.host)
	c.run(t, "docker", "pull", p.reference("acme", img))
	if out := c.refuses(t, "docker", "pull", p.reference("acme/platform2", img)); !strings.Contains(out, "denied") {
		t.Errorf("another group is refused with %q", out)
	}
	list, err := p.command(t, "token", "list", "--address", p.admin)
	if err != nil || !strings.Contains(list, "runner") || strings.Contains(list, "never") {
		t.Errorf("token list prints %q: %v", list, err)
	}
	if out, err := p.command(t, "explain", "--as", "alice", "--pull", p.reference("acme", img), "--address", p.admin); err != nil || !strings.HasPrefix(out, "allowed: member") {
		t.Errorf("explain prints %q: %v", out, err)
	}
	_, err = p.command(t, "explain", "--as", "bob", "--pull", p.reference("acme", img), "--address", p.admin)
	if status, ok := err.(*exec.ExitError); !ok || status.ExitCode() != 3 {
		t.Errorf("the explanation of a denial ends with %v", err)
	}
	if out, err := p.command(t, "token", "revoke", token, "--address", p.admin); err != nil || out != "" {
		t.Errorf("token revoke prints %q: %v", out, err)
	}
	if out := c.refuses(t, "docker", "pull", p.reference("acme", img)); !refusal.MatchString(out) {
		t.Errorf("a pull with a revoked token is refused with %q", out)
	}
	if out := newClient(t).refuses(t, "docker", "login", "-u", "runner", "-p", token, p.host); !refusal.MatchString(out) {
		t.Errorf("a login with a revoked token is refused with %q", out)
	}
	if strings.Contains(p.output(), token) {
		t.Error("the log shows the token")
	}
}
