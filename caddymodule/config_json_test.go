package caddymodule

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestDefaultStorage: without a word about storage the cache is in Caddy's own
// folder.
func TestDefaultStorage(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := newSite(t)
	config, err := s.adapt(users("alice"), private("acme", "alice"), hub(up))
	if err != nil {
		t.Fatal(err)
	}
	without := jsonWithout(t, config, "storage")
	if err := caddy.Load(without, true); err != nil {
		t.Fatal(err)
	}
	s.running, s.cache = true, filepath.Join(caddy.AppDataDir(), "dependency_proxy")
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
}

// TestBadJSON: what a Caddyfile cannot say is refused where modules are made.
func TestBadJSON(t *testing.T) {
	s := newSite(t)
	config, err := s.adapt(users("alice"), private("acme", "alice"), "upstream docker.io")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range [][3]string{
		{`"members":["alice"]`, `"visibility":"secret"`, "visibility 'secret'"},
		{`"path":"acme"`, `"path":"Acme"`, "group 'Acme'"},
		{`"members":["alice"]`, `"upstreams":[{"name":"docker.io"}]`, "nothing of its own"},
		{`"members":["alice"]`, `"members":["alice"],"upstreams":[{"name":"x","credentials":{"username":"u","password":"{env.X}"}}]`, "not declared"},
		{`"name":"docker.io"`, `"name":"docker.io","credentials":{"username":"u","password":"secret"}`, "placeholder"},
		{`"name":"docker.io"`, `"name":"docker.io","endpoint":"{env.NOT_SET}"`, "NOT_SET"},
		{`"name":"docker.io"`, `"name":"docker.io","endpoint":"ftp://x"`, "not a URL"},
		{`"name":"docker.io"`, `"name":"docker.io"},{"name":"docker.io"`, "duplicate upstream"},
		{`"upstreams":`, `"realm":"x","upstreams":`, "realm 'x'"},
		{`"upstreams":`, `"token":{"lifetime":1},"upstreams":`, "token lifetime"},
		{`"name":"alice"`, `"name":"a:b"`, "colon"},
		{`"upstreams":`, `"upstream":`, "unknown field"},
	} {
		if !strings.Contains(string(config), row[0]) {
			t.Fatalf("%s is not in %s", row[0], config)
		}
		err := caddy.Load([]byte(strings.Replace(string(config), row[0], row[1], 1)), true)
		if s.running = s.running || err == nil; err == nil || !strings.Contains(err.Error(), row[2]) {
			t.Errorf("%s: %v", row[1], err)
		}
	}
}

// TestMistakesInTheLog: what is legal and yet most likely a mistake.
func TestMistakesInTheLog(t *testing.T) {
	s := start(t, users("alice"), private("acme", "alice", "alcie"))
	if logs := s.logs(); !strings.Contains(logs, "group member has no account") || !strings.Contains(logs, "alcie") || strings.Contains(logs, `"member":"alice"`) {
		t.Error("no warning of a member without an account")
	}
	s.get("/v2/", as("alice")).expect(t, http.StatusOK, "")
}
