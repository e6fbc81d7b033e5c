//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The environment of all proxies contains the passwords.
const (
	robotCredentials = "credentials " + robotName + " {env.ROBOT_PASSWORD}"
	wrongCredentials = "credentials " + robotName + " {env.WRONG_PASSWORD}"
	wrongPassword    = "robot-mistake"
)

// TestTokenService pulls from a registry with a token service, with the configured
// account, and anonymously what anonymous clients may pull.
func TestTokenService(t *testing.T) {
	everybody := lab.push.index(t, "library/everybody", "1", 1<<20)
	secret := lab.push.index(t, "secret/app", "1", 1<<20)
	t.Run("with credentials", func(t *testing.T) {
		p := startProxy(t, lab.accounts()+standardGroups+upstreamBlock("docker.io", tokenEndpoint, robotCredentials))
		c := loggedIn(t, p)
		dockerPull(t, c, p.reference("acme", everybody), everybody)
		dockerPull(t, c, p.reference("acme", secret), secret)
	})
	t.Run("without credentials", func(t *testing.T) {
		p := startProxy(t, lab.accounts()+standardGroups+upstreamBlock("docker.io", tokenEndpoint))
		dockerPull(t, loggedIn(t, p), p.reference("acme", everybody), everybody)
		// Not 401: the client's own login is correct, and the client would ask for another.
		p.get(t, p.login(t, "alice"), manifestPath("acme", "secret/app", "1")).
			want(t, http.StatusNotFound, "NAME_UNKNOWN")
	})
	t.Run("with wrong credentials", func(t *testing.T) {
		p := startProxy(t, lab.accounts()+standardGroups+
			upstreamBlock("docker.io", tokenEndpoint, wrongCredentials))
		got := p.get(t, p.login(t, "alice"), manifestPath("acme", "secret/app", "1"))
		if got.status != http.StatusBadGateway || got.code() == "" {
			t.Errorf("answered %d %s, want 502 with an error", got.status, got.body)
		}
		out := loggedIn(t, p).refuses(t, "docker", "pull", p.reference("acme", secret))
		if !strings.Contains(out, "502") || strings.Contains(out, "unauthorized") {
			t.Errorf("docker says %q, want a gateway error", out)
		}
		if !regexp.MustCompile(`(?m)^.*"level":"warn".*credentials`).MatchString(p.output()) {
			t.Errorf("no warning about the credentials in the log:\n%s", p.tail(20))
		}
		if strings.Contains(p.output(), wrongPassword) {
			t.Error("the log holds the credentials")
		}
	})
}

// TestRedirectedBlobs pulls from a registry with a token service on a second host
// that redirects blobs to a third one, as Docker Hub does.
func TestRedirectedBlobs(t *testing.T) {
	img := lab.push.index(t, "secret/redirected", "1", 1<<20, 2<<20)
	p := startProxy(t, lab.accounts()+standardGroups+upstreamBlock("docker.io", hubEndpoint, robotCredentials))
	c := loggedIn(t, p)
	lab.cdn.forget()
	dockerPull(t, c, p.reference("acme", img), img)
	fetched := len(lab.cdn.requests())
	if fetched != len(img.blobs()) {
		t.Errorf("%d requests at the other host, want one for each of %d blobs", fetched, len(img.blobs()))
	}
	for _, request := range lab.cdn.requests() {
		if request.authorization != "" {
			t.Errorf("%s %s carries credentials to another host", request.method, request.path)
		}
	}
	dockerPull(t, c, p.reference("acme", img), img)
	if again := len(lab.cdn.requests()); again != fetched {
		t.Errorf("the second pull asked for %d blobs again", again-fetched)
	}
}

// TestUpstreamUnavailable verifies that cached images are still served, and that
// other pulls fail with a status that blames upstream and not the client.
func TestUpstreamUnavailable(t *testing.T) {
	cached := lab.push.index(t, "library/cached", "1", 1<<20)
	missing := lab.push.index(t, "library/missing", "1", 1<<20)
	own, err := newFront("127.0.0.1:0", "http://"+plainRegistry, nil, "")
	must(t, err)
	t.Cleanup(own.stop)
	p := startProxy(t, lab.accounts()+standardGroups+
		upstreamBlock("docker.io", "http://"+own.address, "fresh_for 1ms"))
	c := loggedIn(t, p)
	dockerPull(t, c, p.reference("acme", cached), cached)
	for _, failure := range []struct {
		name  string
		start func()
	}{
		{"broken", func() { own.broken.Store(true) }},
		{"gone", own.stop},
	} {
		failure.start()
		dockerPull(t, c, p.reference("acme", cached), cached)
		stale := p.get(t, p.login(t, "alice"), manifestPath("acme", shortName(cached), "1"))
		stale.want(t, http.StatusOK, "")
		if status := stale.header.Get("Cache-Status"); !strings.Contains(status, "fwd=stale") {
			t.Errorf("upstream %s: the answer says %q of itself, want fwd=stale", failure.name, status)
		}
		got := p.get(t, p.login(t, "alice"), manifestPath("acme", shortName(missing), "1"))
		if got.status < 502 || got.status > 504 || got.code() == "" {
			t.Errorf("upstream %s: answered %d %s, want 502, 503 or 504 with an error", failure.name, got.status, got.body)
		}
	}
}

// TestPrivateAddressIsRefused verifies that an upstream at a loopback address is
// refused when it is dialed, unless it is allowed.
func TestPrivateAddressIsRefused(t *testing.T) {
	img := lab.push.single(t, "library/near", "1", 1<<10)
	p := startProxy(t, lab.accounts()+standardGroups+"upstream docker.io {\n\tendpoint "+plainEndpoint+"\n}\n")
	lab.plain.forget()
	got := p.get(t, p.login(t, "alice"), manifestPath("acme", shortName(img), "1"))
	if got.status != http.StatusServiceUnavailable || got.code() == "" {
		t.Errorf("answered %d %s, want 503 with an error", got.status, got.body)
	}
	if seen := lab.plain.requests(); len(seen) != 0 {
		t.Errorf("upstream was asked all the same: %v", seen)
	}
}

// TestSecretFromFile reads the upstream's credentials from files, as they are
// mounted into a container.
func TestSecretFromFile(t *testing.T) {
	lab.push.single(t, "secret/by-file", "1", 1<<10)
	file := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(file, []byte(robotPassword+"\n"), 0o600))
	p := startProxy(t, lab.accounts()+standardGroups+
		upstreamBlock("docker.io", tokenEndpoint, "credentials "+robotName+" {file."+file+"}"))
	p.get(t, p.login(t, "alice"), manifestPath("acme", "secret/by-file", "1")).want(t, http.StatusOK, "")
	got, err := http.Get("http://" + p.admin + "/config/")
	must(t, err)
	if strings.Contains(string(readAll(t, got)), robotPassword) {
		t.Error("the running configuration shows the password")
	}
}

// loggedIn returns a client that has logged in to p as alice with Docker.
func loggedIn(t *testing.T, p *proxy) *client {
	t.Helper()
	c := newClient(t)
	c.run(t, "docker", "login", "-u", "alice", "-p", password, p.host)
	return c
}
