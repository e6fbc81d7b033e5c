package caddymodule

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/porttest"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// The paths of the admin API.
const (
	adminTokens      = "/dependency_proxy/tokens"
	adminExplainPull = "/dependency_proxy/explain"
	adminCacheStatus = "/dependency_proxy/cache"
	adminCacheScrub  = "/dependency_proxy/cache/scrub"
)

// startWithAdmin starts a site like start, with an admin endpoint.
func startWithAdmin(t testing.TB, lines ...string) *site {
	t.Helper()
	s := newSite(t)
	s.openAdmin()
	s.load(lines...)
	return s
}

// openAdmin gives the site an admin endpoint from the next load on.
func (s *site) openAdmin() {
	s.t.Helper()
	s.admin = porttest.Reserve(s.t)
}

// ask sends a request to the admin endpoint.
func (s *site) ask(method, path, body string, changes ...requestOption) answer {
	s.t.Helper()
	for tries := 0; ; tries++ {
		request, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.admin+path, strings.NewReader(body))
		if err != nil {
			s.t.Fatal(err)
		}
		if body != "" {
			request.Header.Set("Content-Type", "application/json")
		}
		for _, change := range changes {
			change(request)
		}
		response, err := client.Do(request)
		if err == nil {
			return s.finish(response)
		}
		if !repeats(tries, err) {
			s.t.Fatal(err)
		}
	}
}

// command runs `caddy dependency-proxy` in this process and returns the
// standard output followed by the standard error.
func (s *site) command(args ...string) (string, error) {
	s.t.Helper()
	stdout, stderr, err := s.commandOutputs(args...)
	return stdout + stderr, err
}

// commandOutputs runs a command like command and returns its two outputs
// separately.
func (s *site) commandOutputs(args ...string) (stdout, stderr string, err error) {
	s.t.Helper()
	registered := caddycmd.Commands()["dependency-proxy"]
	for tries := 0; ; tries++ {
		root := &cobra.Command{Use: registered.Name}
		registered.CobraFunc(root)
		var out, errs bytes.Buffer
		root.SetOut(&out)
		root.SetErr(&errs)
		root.SetIn(strings.NewReader(s.stdin))
		root.SetArgs(append(args, "--address", s.admin))
		err = root.ExecuteContext(s.t.Context())
		if !repeats(tries, err) {
			return out.String(), errs.String(), err
		}
	}
}

// mustCommand runs a command that must succeed and returns its output.
func (s *site) mustCommand(args ...string) string {
	s.t.Helper()
	out, err := s.command(args...)
	if err != nil {
		s.t.Fatalf("%v: got error %v and %s, want no error", args, err, out)
	}
	return out
}

// createToken creates an access token by the command and returns it with its
// ID. No log may contain the token.
func (s *site) createToken(args ...string) (secret, id string) {
	s.t.Helper()
	stdout, stderr, err := s.commandOutputs(append([]string{"token", "create"}, args...)...)
	secret = strings.TrimSuffix(stdout, "\n")
	id, _ = accesstoken.Parse(secret)
	if err != nil || id == "" || !strings.Contains(stderr, id) {
		s.t.Fatalf("%v: got error %v, %q and %q, want a token and its ID", args, err, stdout, stderr)
	}
	s.addSecrets(secret, secret[len(accesstoken.Prefix):])
	return secret, id
}

// adminMessage returns the error message of the admin endpoint.
func (a answer) adminMessage() string {
	var body struct{ Error string }
	_ = json.Unmarshal(a.body, &body)
	return body.Error
}

// commandOutput returns the output of a command that may fail.
func (s *site) commandOutput(args ...string) string {
	s.t.Helper()
	out, _ := s.command(args...)
	return out
}

// lineContaining returns the first line of text that contains part.
func lineContaining(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

// status returns the state that the admin API reports.
func (s *site) status() (status admin.Status) {
	s.t.Helper()
	a := s.ask("GET", "/dependency_proxy/status", "").expect(s.t, http.StatusOK, "")
	if err := json.Unmarshal(a.body, &status); err != nil {
		s.t.Fatalf("got %s, error %v", a.body, err)
	}
	return status
}

// twoSites returns two sites of one Caddy with an admin endpoint, and a
// function that returns the block of the second site for the configuration of
// the first.
func twoSites(t *testing.T) (s, other *site, second func(lines ...string) string) {
	t.Helper()
	s = newSite(t)
	s.openAdmin()
	host := porttest.Reserve(t)
	other = &site{t: t, url: "http://" + host, host: host, admin: s.admin}
	port := portOf(other.host)
	return s, other, func(lines ...string) string {
		return fmt.Sprintf("http://:%s {\n bind 127.0.0.1\n log\n dependency_proxy {\n storage filesystem %s {\n reserve off\n }\n %s\n }\n}", port, s.cache, strings.Join(lines, "\n"))
	}
}
