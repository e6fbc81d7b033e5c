package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// printLogin is the command of the tests, which this program is for the arguments
// print-login LOG FILE: it prints the password in the file as a login, and adds a
// line to the log.
func printLogin(log, file string) {
	password, err := os.ReadFile(file)
	if err != nil {
		panic(err)
	}
	runs, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer runs.Close()
	_, _ = fmt.Fprintln(runs, "run")
	_ = json.NewEncoder(os.Stdout).Encode(map[string]string{"username": "hub", "password": string(password)})
}

// loginFiles are the files that the logins of a test come from.
type loginFiles struct {
	t                     *testing.T
	password, config, log string
	command               string // the line credential_exec
}

func newLoginFiles(t *testing.T, up *registrytest.Registry) *loginFiles {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := &loginFiles{t: t, password: filepath.Join(dir, "password"), config: filepath.Join(dir, "config.json"), log: filepath.Join(dir, "log")}
	f.command = fmt.Sprintf("credential_exec %s print-login %s %s", executable, f.log, f.password)
	f.write(up, sitetest.UpstreamPassword)
	return f
}

// write sets the password in the files.
func (f *loginFiles) write(up *registrytest.Registry, password string) {
	f.t.Helper()
	sitetest.WriteFile(f.t, f.password, password)
	sitetest.WriteFile(f.t, f.config, fmt.Sprintf(`{"auths":{%q:{"username":"hub","password":%q}}}`, up.Host(), password))
}

// runs returns how often the command was run.
func (f *loginFiles) runs() int {
	content, err := os.ReadFile(f.log)
	if err != nil && !os.IsNotExist(err) {
		f.t.Fatal(err)
	}
	return strings.Count(string(content), "\n")
}

// TestUpstreamLoginRotates checks that a rotated password is used without a reload,
// and keeps the cache.
func TestUpstreamLoginRotates(t *testing.T) {
	const rotated = "rotated-" + sitetest.UpstreamPassword
	for name, option := range map[string]registrytest.Option{
		"token": registrytest.WithToken("hub", sitetest.UpstreamPassword), "basic": registrytest.WithBasic("hub", sitetest.UpstreamPassword),
	} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t, option)
			up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
			up.PutImage("library/busybox", "1", sitetest.Random(2, 100))
			f := newLoginFiles(t, up)
			for _, line := range []string{"credentials hub {file." + f.password + "}", "docker_config " + f.config} {
				f.write(up, sitetest.UpstreamPassword)
				up.SetPassword(sitetest.UpstreamPassword)
				s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, line))
				s.AddSecrets(rotated)
				sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
				f.write(up, rotated)
				up.SetPassword(rotated)
				up.RevokeTokens()
				sitetest.Pull(t, s, "acme", "busybox", "1", sitetest.As("alice"))
				up.Reset()
				s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, line))
				sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
				if got := up.Counts(); got != (registrytest.Counts{}) {
					t.Errorf("%s: got requests %+v after a reload, want none", line, got)
				}
				s.Stop()
			}
		})
	}
}

// TestUpstreamLoginCommand checks that a command is not run to validate or load a
// configuration, once for several pulls, sites and reloads, and that neither the
// configuration nor the log shows what it prints.
func TestUpstreamLoginCommand(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword))
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	up.PutImage("library/busybox", "1", sitetest.Random(2, 100))
	f := newLoginFiles(t, up)
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, f.command)}
	s := sitetest.NewSite(t)
	s.OpenAdmin()
	if err := s.Validate(lines...); err != nil {
		t.Fatal(err)
	}
	s.Load(lines...)
	if got := f.runs(); got != 0 {
		t.Errorf("got %d runs before the first pull, want none", got)
	}
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	s.Load(append(lines, sitetest.Private("other", "alice"))...)
	sitetest.Pull(t, s, "acme", "busybox", "1", sitetest.As("alice"))
	sitetest.Pull(t, s, "other", "busybox", "1", sitetest.As("alice"))
	if got := f.runs(); got != 1 {
		t.Errorf("got %d runs, want 1", got)
	}
	if config := string(s.Ask(http.MethodGet, "/config/", "").Data); strings.Contains(config, sitetest.UpstreamPassword) || !strings.Contains(config, "print-login") {
		t.Errorf("got configuration %s, want the command and no password in it", config)
	}
}

// TestUpstreamLoginFails checks the answer to a pull if a command fails, and that the
// log tells why without its output.
func TestUpstreamLoginFails(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword))
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	f := newLoginFiles(t, up)
	if err := os.Remove(f.password); err != nil {
		t.Fatal(err)
	}
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, f.command))
	s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusBadGateway, "UNAVAILABLE")
	if logs := s.Logs(); !strings.Contains(logs, "the configured login cannot be obtained") || !strings.Contains(logs, "failed with exit code 2") {
		t.Error("the log does not tell why there is no login")
	}
}

// TestUpstreamLoginIdentity checks that content that one login may read is not served
// to another one, although both are of the same account, and is after a change of
// the secret.
func TestUpstreamLoginIdentity(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword))
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	f := newLoginFiles(t, up)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, f.command))
	for _, row := range []struct {
		line   string
		shared bool
	}{
		{f.command, false},
		{f.command, true},
		{"credentials hub {file." + f.password + "}", false},
		{"docker_config " + f.config, false},
		{f.command + " {\n env LANG\n}", false},
		{f.command, true},
	} {
		up.Reset()
		s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, row.line))
		sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
		if got := up.Counts(); (got.ManifestGet+got.ManifestHead == 0) != row.shared {
			t.Errorf("%s: got requests %+v, want content of another login to be used: %v", row.line, got, row.shared)
		}
	}
}

// TestUpstreamLoginErrors checks that a login that cannot be used is an error at load.
func TestUpstreamLoginErrors(t *testing.T) {
	s := sitetest.NewSite(t)
	config := filepath.Join(t.TempDir(), "config.json")
	sitetest.WriteFile(t, config, `{"auths":{"quay.io":{}},"credsStore":"pass"}`)
	t.Setenv("ENDPOINT", "https://docker.example/v2/project")
	for lines, want := range map[string]string{
		"upstream quay.io {\n docker_config " + config + "\n}":                                "write `credential_helper pass` instead",
		"upstream quay.io {\n docker_config " + config + "-none\n}":                           "no such file",
		"upstream quay.io {\n credential_helper not-installed\n}":                             "docker-credential-not-installed",
		"upstream quay.io {\n credential_exec " + config + "\n}":                              "not a program",
		"upstream quay.io {\n endpoint {env.ENDPOINT}\n}":                                     "write https://docker.example, and project before",
		"upstream quay.io\ngroup g {\n upstream quay.io {\n docker_config /none/at/all\n}\n}": "group g: upstream quay.io: docker_config",
	} {
		if err := s.Validate(sitetest.Users("alice"), sitetest.Private("acme", "alice"), lines); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want %q", lines, err, want)
		}
	}
}
