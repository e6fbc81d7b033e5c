//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// loginCommand is how a client logs in, with the options to trust Caddy's internal
// authority for names without a public certificate.
type loginCommand struct {
	client string
	argv   []string // the host comes last
	trust  func(rootFile string) (argv, env []string)
}

func trustByVariable(root string) (argv, env []string) { return nil, []string{"SSL_CERT_FILE=" + root} }

func trustByFolder(root string) (argv, env []string) {
	return []string{"--cert-dir", filepath.Dir(root)}, nil
}

// Docker does not verify certificates of localhost.
func trustAnyway(string) (argv, env []string) { return nil, nil }

var loginCommands = []loginCommand{
	{"docker", []string{"docker", "login"}, trustAnyway},
	{"podman", []string{"podman", "login"}, trustByFolder},
	{"buildah", []string{"buildah", "login"}, trustByFolder},
	{"skopeo", []string{"skopeo", "login"}, trustByFolder},
	{"regctl", []string{"regctl", "registry", "login"}, trustByVariable},
	{"oras", []string{"oras", "login", "--plain-http=false"}, trustByVariable},
}

// refusal is the message that a user must see when a login is refused.
var refusal = regexp.MustCompile(`(?i)unauthorized|invalid username/password|incorrect username or password`)

// TestLogin logs in with each client, with the certificate from ACME and with the
// one from Caddy's internal authority.
func TestLogin(t *testing.T) {
	root := internalRoot(t)
	for _, host := range []string{proxyName, mainLocalhost} {
		for _, command := range loginCommands {
			t.Run(host+"/"+command.client, func(t *testing.T) {
				t.Parallel() // each failed login takes a second
				var flags, env []string
				if host == mainLocalhost {
					flags, env = command.trust(root)
				}
				login := func(user, password string) []string {
					argv := append([]string(nil), command.argv...)
					argv = append(argv, flags...)
					return append(argv, "-u", user, "-p", password, host)
				}
				c := newClient(t, env...)
				c.run(t, login("alice", password)...)
				// A client that is already logged in may not ask the registry.
				for _, wrong := range [][2]string{{"alice", "wrong"}, {"nobody", password}} {
					out := newClient(t, env...).refuses(t, login(wrong[0], wrong[1])...)
					if !refusal.MatchString(out) {
						t.Errorf("%s: login as %s is refused with %q", command.client, wrong[0], out)
					}
				}
			})
		}
	}
}

// internalRoot returns a folder that contains only the root of the main proxy's
// internal authority: podman, buildah and skopeo load every file of a folder,
// including keys.
func internalRoot(t *testing.T) string {
	t.Helper()
	from := filepath.Join(lab.main.dir, "data/caddy/pki/authorities/local/root.crt")
	data, err := os.ReadFile(from)
	must(t, err)
	to := filepath.Join(t.TempDir(), "root.crt")
	must(t, os.WriteFile(to, data, 0o644))
	return to
}

// TestLoginCrane verifies crane's login with a request, since crane only writes a
// file.
func TestLoginCrane(t *testing.T) {
	img := lab.push.single(t, "library/crane-login", "1", 1<<10)
	for _, login := range []struct {
		user, password string
		ok             bool
	}{{"alice", password, true}, {"alice", "wrong", false}, {"nobody", password, false}} {
		c := newClient(t)
		c.run(t, "crane", "auth", "login", "-u", login.user, "-p", login.password, proxyName)
		ask := []string{"crane", "manifest", lab.main.reference("acme", img)}
		if login.ok {
			c.run(t, ask...)
		} else if out := c.refuses(t, ask...); !refusal.MatchString(out) {
			t.Errorf("crane as %s is refused with %q", login.user, out)
		}
	}
}

// TestLoginWithoutEngine runs `docker login` without a Docker Engine.
func TestLoginWithoutEngine(t *testing.T) {
	c := newClient(t, "DOCKER_HOST=unix:///run/no-engine-here.sock")
	out := c.run(t, "docker", "login", "-u", "alice", "-p", password, proxyName)
	if !regexp.MustCompile("Login Succeeded").MatchString(out) {
		t.Errorf("docker login says %q", out)
	}
	out = c.refuses(t, "docker", "login", "-u", "alice", "-p", "wrong", proxyName)
	if !refusal.MatchString(out) {
		t.Errorf("docker login with a wrong password says %q", out)
	}
}

// TestDockerKeepsPassword verifies that a refresh token is not issued unless it is
// configured: it would replace the password in Docker's file, and podman could not
// use it.
func TestDockerKeepsPassword(t *testing.T) {
	c := newClient(t)
	c.run(t, "docker", "login", "-u", "alice", "-p", password, proxyName)
	data, err := os.ReadFile(filepath.Join(c.home, ".docker", "config.json"))
	must(t, err)
	var file struct {
		Auths map[string]struct{ IdentityToken string }
	}
	must(t, json.Unmarshal(data, &file))
	if entry, ok := file.Auths[proxyName]; !ok || entry.IdentityToken != "" {
		t.Errorf("Docker keeps %s", data)
	}
}

// TestLoginRequests sends the requests that a client's login consists of.
func TestLoginRequests(t *testing.T) {
	got := lab.main.get(t, "", "/v2/")
	got.want(t, http.StatusUnauthorized, "UNAUTHORIZED")
	want := `Bearer realm="https://` + proxyName + `/jwt/auth",service="dependency_proxy"`
	if challenge := got.header.Get("WWW-Authenticate"); challenge != want {
		t.Errorf("challenge %s, want %s", challenge, want)
	}
	lab.main.get(t, lab.main.login(t, "alice"), "/v2/").want(t, http.StatusOK, "")
	lab.main.askToken(t, "alice", "wrong").want(t, http.StatusUnauthorized, "UNAUTHORIZED")
	lab.main.askToken(t, "nobody", password).want(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestOtherPathsReachNextHandler requests a page beside the registry.
func TestOtherPathsReachNextHandler(t *testing.T) {
	got := lab.main.get(t, "", "/")
	if got.status != http.StatusOK || string(got.body) != pageText {
		t.Errorf("the page answers %d %q", got.status, got.body)
	}
}
