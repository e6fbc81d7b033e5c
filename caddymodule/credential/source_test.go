package credential

import (
	"encoding/base64"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

// open opens a source for the registry at a host.
func open(t *testing.T, s Source, host string) (Login, error) {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	return s.Open(&url.URL{Scheme: "https", Host: host})
}

// mustAsk opens a source and returns its login.
func mustAsk(t *testing.T, s Source, host string) (Login, auth.Login) {
	t.Helper()
	opened, err := open(t, s, host)
	if err != nil {
		t.Fatal(err)
	}
	login, err := opened.LoginSource(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return opened, login
}

// TestHelper checks what is made of the answers of a credential helper.
func TestHelper(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	if err := os.Symlink(executable(t), filepath.Join(bin, "docker-credential-test-1")); err != nil {
		t.Skipf("cannot create a symbolic link: %v", err)
	}
	s := Source{CredentialHelper: &Helper{Name: "test-1"}}
	if _, login := mustAsk(t, s, "KNOWN.example"); login != (auth.Login{Username: "<token>", Password: secretText}) {
		t.Errorf("got login of %q, want that of the helper", login.Username)
	}
	for host, want := range map[string]string{
		"unknown.example":      "no login for unknown.example",
		"registry-1.docker.io": "no login for https://index.docker.io/v1/",
		"nonsense.example":     "did not print a login",
		"locked.example":       "exit code 2",
	} {
		opened, err := open(t, s, host)
		if err != nil {
			t.Fatal(err)
		}
		_, err = opened.LoginSource(t.Context(), nil)
		wantError(t, err, want)
	}
	_, err := open(t, Source{CredentialHelper: &Helper{Name: "none"}}, "known.example")
	wantError(t, err, "docker-credential-none")
	t.Chdir(bin)
	t.Setenv("PATH", ".")
	_, err = open(t, s, "known.example")
	wantError(t, err, "in the PATH")
}

// TestExec checks that opening a command does not run it, and what is made of its
// output.
func TestExec(t *testing.T) {
	command := executable(t)
	_, login := mustAsk(t, Source{CredentialExec: &Exec{Command: []string{command, "program", "login"}}}, "h")
	if login != (auth.Login{Username: "robot", Password: secretText}) {
		t.Errorf("got login of %q, want that of the command", login.Username)
	}
	_, err := open(t, Source{CredentialExec: &Exec{Command: []string{command + "-none"}}}, "h")
	wantError(t, err, "not a program")
	opened, err := open(t, Source{CredentialExec: &Exec{Command: []string{command, "program", "fail"}}}, "h")
	if err != nil {
		t.Errorf("opening runs the command: %v", err)
	}
	_, err = opened.LoginSource(t.Context(), nil)
	wantError(t, err, "exit code 7")
}

func TestParseLogin(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for output, want := range map[string]string{
		`{"username":"u","password":"secret-that-must-not-leak"}`:                                           "",
		`{"username":"u","password":"secret-that-must-not-leak","expires":"2026-01-02T03:05:45Z","more":1}`: "",
		`{"username":"u","password":"secret-that-must-not-leak","expires":"2026-01-02T04:05:45+01:00"}`:     "",
		`secret-that-must-not-leak`:                             "did not print",
		`{"username":1,"password":"secret-that-must-not-leak"}`: "did not print",
		``:                      "did not print",
		`{"username":"u"} more`: "did not print",
		`{"username":"u","password":"secret-that-must-not-leak","expires":"tomorrow"}`:             `wrong "expires"`,
		`{"username":"u","password":"secret-that-must-not-leak","expires":1}`:                      "did not print",
		`{"username":"u","password":"secret-that-must-not-leak","expires":"2026-01-02T03:04:05Z"}`: "has expired",
	} {
		f, err := parseLogin([]byte(output), now)
		switch {
		case want != "":
			wantError(t, err, want)
		case err != nil || f.login != auth.Login{Username: "u", Password: secretText}:
			t.Errorf("%s: got error %v, want the login", output, err)
		case strings.Contains(output, "expires") && (f.expires.Sub(now) != 100*time.Second || f.renewAt.Sub(now) != 80*time.Second):
			t.Errorf("%s: got a login until %v, renewed at %v, want 100s and 80s", output, f.expires, f.renewAt)
		}
	}
}

// TestParseLoginFarExpiry checks that a login that is valid for centuries is not renewed
// at once.
func TestParseLoginFarExpiry(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, expires := range []string{"2126-01-02T03:04:05Z", "2500-01-02T03:04:05Z", "9999-12-31T23:59:59Z"} {
		f, err := parseLogin([]byte(`{"username":"u","password":"p","expires":"`+expires+`"}`), now)
		if err != nil || f.renewAt.Year() < 2100 || f.renewAt.After(f.expires) {
			t.Errorf("expires %s: got renewal at %v, error %v", expires, f.renewAt, err)
		}
	}
}

// TestDockerConfig checks which login is read from Docker's configuration file.
func TestDockerConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	encoded := base64.StdEncoding.EncodeToString([]byte("u:" + secretText))
	nul := base64.StdEncoding.EncodeToString([]byte("u:" + secretText + "\x00\x00"))
	for _, test := range []struct{ content, host, username, want string }{
		{`{"auths":{"h:5000":{"auth":"` + encoded + `"}}}`, "h:5000", "u", ""},
		{`{"auths":{"h":{"auth":"` + nul + `"}}}`, "H", "u", ""},
		{`{"auths":{"h":{"username":"u","password":"` + secretText + `"}}}`, "h", "u", ""},
		{`{"auths":{"h":{"auth":"` + encoded + `","identitytoken":"` + secretText + `"}}}`, "h", "<token>", ""},
		{`{"auths":{"https://index.docker.io/v1/":{"auth":"` + encoded + `"}}}`, "registry-1.docker.io", "u", ""},
		{`{"auths":{"docker.io":{"auth":"` + encoded + `"}}}`, "registry-1.docker.io", "u", ""},
		{`{"auths":{"https://h/v2/":{"auth":"` + encoded + `"}}}`, "h", "u", ""},
		{`{"auths":{"h/v2":{},"h":{"auth":"` + encoded + `"}}}`, "h", "u", ""},
		{`{"auths":{"h":{"auth":"` + encoded + `"}},"credsStore":"pass"}`, "h", "u", ""},
		{`{"auths":{"https://index.docker.io/v1/access-token":{"auth":"` + encoded + `"}}}`, "docker.io", "", "auths has no login for https://index.docker.io/v1/"},
		{`{"auths":{"h/project":{"auth":"` + encoded + `"}}}`, "h", "", "auths has no login for h;"},
		{`{"auths":{"h":{"auth":"` + encoded + `"}}}`, "h:5000", "", "auths has no login for h:5000"},
		{`{"auths":{"h":{}},"credsStore":"secretservice"}`, "h", "", "credential_helper secretservice"},
		{`{"credsStore":"pass"}`, "h", "", "credential_helper pass"},
		{`{"auths":{"h":{"auth":"` + encoded + `"}},"credHelpers":{"h":"ecr-login"}}`, "h", "", "credential_helper ecr-login"},
		{`{"auths":{"h":{"auth":"` + secretText + `"}}}`, "h", "", "auth is not"},
		{`{"auths":{"h":{"username":"u"}}}`, "h", "", "incomplete"},
		{`{"auths":{"h":"` + secretText + `"}}`, "h", "", "not a configuration file"},
		{strings.Repeat(" ", maxDockerConfig) + `{}`, "h", "", "larger than"},
	} {
		writeFile(t, path, test.content)
		opened, err := open(t, Source{DockerConfig: path}, test.host)
		if test.want != "" {
			wantError(t, err, test.want)
			continue
		}
		if err != nil {
			t.Errorf("%.100s: %v", test.content, err)
			continue
		}
		if login, err := opened.LoginSource(t.Context(), nil); err != nil || login != (auth.Login{Username: test.username, Password: secretText}) {
			t.Errorf("%.100s: got login of %q, error %v, want that of %q", test.content, login.Username, err, test.username)
		}
	}
	_, err := open(t, Source{DockerConfig: path + "-none"}, "h")
	wantError(t, err, "no such file")
	_, err = open(t, Source{DockerConfig: filepath.Dir(path)}, "h")
	wantError(t, err, "is not a file")
}

// TestRotatedSecrets checks that placeholders and files are read again when the login
// is refused, and that another user name is not accepted without a reload.
func TestRotatedSecrets(t *testing.T) {
	dir := t.TempDir()
	user, password, config := filepath.Join(dir, "user"), filepath.Join(dir, "password"), filepath.Join(dir, "config.json")
	rotate := func(name, secret string) {
		writeFile(t, user, name)
		writeFile(t, password, secret)
		writeFile(t, config, `{"auths":{"h":{"username":"`+name+`","password":"`+secret+`"}}}`)
	}
	rotate("robot", "first")
	static := Source{Credentials: &Credentials{Username: "{file." + user + "}", Password: "{file." + password + "}"}}
	sources := map[string]Source{"credentials": static, "docker_config": {DockerConfig: config}}
	asked := make(map[string]Login)
	for name, s := range sources {
		opened, login := mustAsk(t, s, "h")
		asked[name] = opened
		if want := (auth.Login{Username: "robot", Password: "first"}); login != want {
			t.Errorf("%s: got %q, want the first login", name, login.Username)
		}
	}
	rotate("robot", "second")
	for name, s := range sources {
		first := auth.Login{Username: "robot", Password: "first"}
		login, err := asked[name].LoginSource(t.Context(), &first)
		if want := (auth.Login{Username: "robot", Password: "second"}); err != nil || login != want {
			t.Errorf("%s: got %q, error %v, want the second login", name, login.Username, err)
		}
		again, _ := mustAsk(t, s, "h")
		if again.Identity != asked[name].Identity || again.Key == asked[name].Key {
			t.Errorf("%s: a rotated secret must keep the identity and change the key", name)
		}
	}
	opened, login := mustAsk(t, static, "h")
	rotate("mallory", "third")
	_, err := opened.LoginSource(t.Context(), &login)
	wantError(t, err, "user name of the credentials has changed")
	if changed, _ := mustAsk(t, static, "h"); changed.Identity != "mallory" {
		t.Errorf("got identity %q after a reload, want that of the new user name", changed.Identity)
	}
}

// TestIdentity checks that different configurations have different identities, and
// that none equals that of a user name.
func TestIdentity(t *testing.T) {
	bin := t.TempDir()
	command := executable(t)
	for _, name := range []string{"a", "b"} {
		if err := os.Symlink(command, filepath.Join(bin, "docker-credential-"+name)); err != nil {
			t.Skipf("cannot create a symbolic link: %v", err)
		}
		writeFile(t, filepath.Join(bin, name), `{"auths":{"h":{"username":"u","password":"p"}}}`)
	}
	t.Setenv("PATH", bin)
	t.Setenv("P", "p")
	seen := make(map[string]int)
	for i, s := range []Source{
		{},
		{Credentials: &Credentials{Username: "u", Password: "{env.P}"}},
		{Credentials: &Credentials{Username: "a", Password: "{env.P}"}},
		{CredentialHelper: &Helper{Name: "a"}},
		{CredentialHelper: &Helper{Name: "b"}},
		{CredentialHelper: &Helper{Name: "a", Env: []string{"P"}}},
		{CredentialExec: &Exec{Command: []string{command}}},
		{CredentialExec: &Exec{Command: []string{command, "P"}}},
		{CredentialExec: &Exec{Command: []string{command, ""}}},
		{CredentialExec: &Exec{Command: []string{command}, Env: []string{"P"}}},
		{DockerConfig: filepath.Join(bin, "a")},
		{DockerConfig: filepath.Join(bin, "b")},
	} {
		opened, err := open(t, s, "h")
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[opened.Identity]; ok {
			t.Errorf("the sources %d and %d have the same identity %q", other, i, opened.Identity)
		}
		seen[opened.Identity] = i
		again, err := open(t, s, "h")
		if err != nil || again.Identity != opened.Identity || again.Key != opened.Key {
			t.Errorf("source %d: got another identity or key, or error %v, want the same", i, err)
		}
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
