package caddymodule

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestDefaultStorage checks that the cache is in Caddy's data directory if the
// configuration has no storage.
func TestDefaultStorage(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.NewSite(t)
	config, err := s.Adapt(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	if err != nil {
		t.Fatal(err)
	}
	without := sitetest.JSONWithoutField(t, config, "storage")
	if err := sitetest.LoadCaddy(t, without); err != nil {
		t.Fatal(err)
	}
	s.Running, s.Cache = true, filepath.Join(caddy.AppDataDir(), "dependency_proxy")
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
}

// TestInvalidJSON checks that mistakes that a Caddyfile cannot contain are
// errors when the JSON is loaded.
func TestInvalidJSON(t *testing.T) {
	s := sitetest.NewSite(t)
	config, err := s.Adapt(sitetest.Users("alice"), sitetest.Private("acme", "alice"), "upstream docker.io")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range [][3]string{
		{`"members":["alice"]`, `"visibility":"secret"`, "visibility 'secret'"},
		{`"path":"acme"`, `"path":"Acme"`, "group 'Acme'"},
		{`"members":["alice"]`, `"upstreams":[{"name":"docker.io"}]`, "no credentials"},
		{`"members":["alice"]`, `"members":["alice"],"upstreams":[{"name":"x","credentials":{"username":"u","password":"{env.X}"}}]`, "not declared"},
		{`"name":"docker.io"`, `"name":"docker.io","credentials":{"username":"u","password":"secret"}`, "placeholder"},
		{`"name":"docker.io"`, `"name":"docker.io","endpoint":"{env.NOT_SET}"`, "NOT_SET"},
		{`"name":"docker.io"`, `"name":"docker.io","endpoint":"ftp://x"`, "invalid endpoint"},
		{`"name":"docker.io"`, `"name":"docker.io"},{"name":"docker.io"`, "duplicate upstream"},
		{`"upstreams":`, `"realm":"x","upstreams":`, "realm 'x'"},
		{`"upstreams":`, `"token":{"lifetime":1},"upstreams":`, "token lifetime"},
		{`"name":"alice"`, `"name":"a:b"`, "colon"},
		{`"upstreams":`, `"upstream":`, "unknown field"},
	} {
		if !strings.Contains(string(config), row[0]) {
			t.Fatalf("the configuration lacks %s, which the test replaces: %s", row[0], config)
		}
		err := sitetest.LoadCaddy(t, []byte(strings.Replace(string(config), row[0], row[1], 1)))
		if s.Running = s.Running || err == nil; err == nil || !strings.Contains(err.Error(), row[2]) {
			t.Errorf("%s: got error %v, want %q", row[1], err, row[2])
		}
	}
}

// TestNullInJSONConfig checks that null in any place of the JSON is either an
// error or the same as no value, and never a panic.
func TestNullInJSONConfig(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	const group = `"groups":[{"path":"acme"}]`
	for config, want := range map[string]string{
		`{"directories":[null],` + group + `}`:                                                                              "module name not specified",
		`{"directories":[{"type":null}],` + group + `}`:                                                                     "module name not specified",
		`{"groups":[null]}`:                                                                                                 "a group is null",
		`{"groups":null}`:                                                                                                   "there is no group",
		`{"groups":[{"path":null}]}`:                                                                                        "invalid group ''",
		`{"groups":[{"path":"acme","upstreams":[null]}]}`:                                                                   "upstream",
		`{"upstreams":[null],` + group + `}`:                                                                                "an upstream is null",
		`{"directories":[{"type":"static","users":[null]}],` + group + `}`:                                                  "a user is null",
		`{"directories":[{"type":"static","hash":null}],` + group + `}`:                                                     "module name not specified",
		`{"directories":[{"type":"gitlab","url":null}],` + group + `}`:                                                      "URL",
		`{"directories":[{"type":"oidc","issuer":null}],` + group + `}`:                                                     "issuer",
		`{"directories":[{"type":"ldap","servers":[null]}],` + group + `}`:                                                  "server",
		`{"directories":[{"type":"ldap","servers":null}],` + group + `}`:                                                    "server",
		`{"directories":[{"type":"authentication","provider":null}],` + group + `}`:                                         "module name not specified",
		`{"directories":[{"type":"oidc","issuer":"https://i.example","audiences":["a"],"map":[null]}],` + group + `}`:       "a map is null",
		`{"directories":[{"type":"oidc","issuer":"https://i.example","audiences":["a"],"require":[null]}],` + group + `}`:   "a requirement is null",
		`{"directories":[{"type":"gitlab","url":"https://g.example","token":"{env.HOME}","transport":null}],` + group + `}`: "module name not specified",
		`{"token":null,"private_groups":null,"admins":null,"blocked":null,` + group + `}`:                                   "",
		`{"blocked":[null],` + group + `}`:                                                                                  "missing account name",
		`{"directories":null,"upstreams":null,` + group + `}`:                                                               "",
	} {
		raw := strings.Replace(config, "{", `{"handler":"dependency_proxy",`, 1)
		app := `{"admin":{"disabled":true},"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"routes":[{"handle":[` + raw + `]}]}}}}}`
		var parsed caddy.Config
		if err := json.Unmarshal([]byte(app), &parsed); err != nil {
			t.Fatal(err)
		}
		err := caddy.Validate(&parsed)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want %q", config, err, want)
		}
	}
}

// TestCheckRejectsNull checks that null in a list is an error and not a panic.
func TestCheckRejectsNull(t *testing.T) {
	for name, h := range map[string]*Handler{
		"group":          {Groups: []*Group{nil}},
		"upstream":       {Upstreams: []*Upstream{nil}},
		"group upstream": {Groups: []*Group{{Path: "acme", Upstreams: []*GroupUpstream{nil}}}},
	} {
		if err := h.check(); err == nil || !strings.Contains(err.Error(), "is null") {
			t.Errorf("%s: got error %v, want one about null", name, err)
		}
	}
}
