package sitetest

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
	AdminTokens      = "/dependency_proxy/tokens"
	AdminExplainPull = "/dependency_proxy/explain"
	AdminCacheStatus = "/dependency_proxy/cache"
	AdminCacheScrub  = "/dependency_proxy/cache/scrub"
)

// StartWithAdmin is [Start] with an admin endpoint.
func StartWithAdmin(t testing.TB, lines ...string) *Site {
	t.Helper()
	s := NewSite(t)
	s.OpenAdmin()
	s.Load(lines...)
	return s
}

// OpenAdmin gives the site an admin endpoint from the next load on.
func (s *Site) OpenAdmin() {
	s.T.Helper()
	s.Admin = porttest.Reserve(s.T)
}

// awaitAdmin waits until the admin endpoint of a configuration answers, if it has one. If
// Caddy loads another configuration or stops before that, it may never close the endpoint's
// socket.
func awaitAdmin(t testing.TB, config []byte) {
	t.Helper()
	var loaded struct {
		Admin struct {
			Listen   string `json:"listen"`
			Disabled bool   `json:"disabled"`
		} `json:"admin"`
	}
	if err := json.Unmarshal(config, &loaded); err != nil {
		t.Fatal(err)
	}
	if loaded.Admin.Disabled || loaded.Admin.Listen == "" {
		return
	}
	Eventually(t, "the admin endpoint answers", func() bool {
		response, err := Client.Get("http://" + loaded.Admin.Listen + "/config/admin/listen")
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// Ask sends a request to the admin endpoint.
func (s *Site) Ask(method, path, body string, changes ...RequestOption) Answer {
	s.T.Helper()
	for tries := 0; ; tries++ {
		request, err := http.NewRequestWithContext(s.T.Context(), method, "http://"+s.Admin+path, strings.NewReader(body))
		if err != nil {
			s.T.Fatal(err)
		}
		if body != "" {
			request.Header.Set("Content-Type", "application/json")
		}
		for _, change := range changes {
			change(request)
		}
		response, err := Client.Do(request)
		if err == nil {
			return s.Finish(response)
		}
		if !Repeats(tries, err) {
			s.T.Fatal(err)
		}
	}
}

// Command runs `caddy dependency-proxy` in this process and returns the
// standard output followed by the standard error.
func (s *Site) Command(args ...string) (string, error) {
	s.T.Helper()
	stdout, stderr, err := s.CommandOutputs(args...)
	return stdout + stderr, err
}

// CommandOutputs is [Site.Command], but returns the two outputs separately.
func (s *Site) CommandOutputs(args ...string) (stdout, stderr string, err error) {
	s.T.Helper()
	registered := caddycmd.Commands()["dependency-proxy"]
	for tries := 0; ; tries++ {
		root := &cobra.Command{Use: registered.Name}
		registered.CobraFunc(root)
		var out, errs bytes.Buffer
		root.SetOut(&out)
		root.SetErr(&errs)
		root.SetIn(strings.NewReader(s.Stdin))
		root.SetArgs(append(args, "--address", s.Admin))
		err = root.ExecuteContext(s.T.Context())
		if !Repeats(tries, err) {
			return out.String(), errs.String(), err
		}
	}
}

// MustCommand runs a command that must succeed and returns its output.
func (s *Site) MustCommand(args ...string) string {
	s.T.Helper()
	out, err := s.Command(args...)
	if err != nil {
		s.T.Fatalf("%v: got error %v and %s, want no error", args, err, out)
	}
	return out
}

// CreateToken creates an access token by the command and returns it with its
// ID. No log may contain the token.
func (s *Site) CreateToken(args ...string) (secret, id string) {
	s.T.Helper()
	stdout, stderr, err := s.CommandOutputs(append([]string{"token", "create"}, args...)...)
	secret = strings.TrimSuffix(stdout, "\n")
	id, _ = accesstoken.Parse(secret)
	if err != nil || id == "" || !strings.Contains(stderr, id) {
		s.T.Fatalf("%v: got error %v, %q and %q, want a token and its ID", args, err, stdout, stderr)
	}
	s.AddSecrets(secret, secret[len(accesstoken.Prefix):])
	return secret, id
}

// AdminMessage returns the error message of the admin endpoint.
func (a Answer) AdminMessage() string {
	var body struct{ Error string }
	_ = json.Unmarshal(a.Data, &body)
	return body.Error
}

// CommandOutput returns the output of a command that may fail.
func (s *Site) CommandOutput(args ...string) string {
	s.T.Helper()
	out, _ := s.Command(args...)
	return out
}

// LineContaining returns the first line of text that contains part.
func LineContaining(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

// Status returns the state that the admin API reports.
func (s *Site) Status() (status admin.Status) {
	s.T.Helper()
	a := s.Ask("GET", "/dependency_proxy/status", "").Expect(s.T, http.StatusOK, "")
	if err := json.Unmarshal(a.Data, &status); err != nil {
		s.T.Fatalf("got %s, error %v", a.Data, err)
	}
	return status
}

// TwoSites returns two sites of one Caddy with an admin endpoint, and a
// function that returns the block of the second site for the configuration of
// the first.
func TwoSites(t *testing.T) (s, other *Site, second func(lines ...string) string) {
	t.Helper()
	s = NewSite(t)
	s.OpenAdmin()
	host := porttest.Reserve(t)
	other = &Site{T: t, URL: "http://" + host, Host: host, Admin: s.Admin}
	port := PortOf(other.Host)
	return s, other, func(lines ...string) string {
		return fmt.Sprintf("http://:%s {\n bind 127.0.0.1\n log\n dependency_proxy {\n storage filesystem %s {\n reserve off\n }\n %s\n }\n}", port, s.Cache, strings.Join(lines, "\n"))
	}
}
