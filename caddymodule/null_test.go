package caddymodule

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestNullJSON: null where something should be is refused, or is as good as
// nothing, and never a panic.
func TestNullJSON(t *testing.T) {
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
			t.Errorf("%s: %v", config, err)
		}
	}
}
