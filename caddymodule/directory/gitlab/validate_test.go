package gitlab

import (
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// TestDirectoryProvisionRejects: mistakes in a JSON configuration are found without asking
// GitLab.
func TestDirectoryProvisionRejects(t *testing.T) {
	for wrong, d := range map[string]*Directory{
		"invalid URL":                   {URL: "gitlab.example.com", Token: "{env.X}"},
		"missing service token":         {URL: "https://gitlab.example.com"},
		"must be a placeholder":         {URL: "https://gitlab.example.com", Token: "glpat-xyz"},
		"grace 1s must not be shorter":  {URL: "https://gitlab.example.com", Token: "{env.X}", Grace: caddy.Duration(time.Second)},
		"the token placeholder {env.X}": {URL: "https://gitlab.example.com", Token: "{env.X}"},
	} {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		if err := d.Provision(ctx); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("got %v, want %q", err, wrong)
		}
		cancel()
	}
}

// TestDirectoryCheckGroups: a pattern that cannot match is rejected.
func TestDirectoryCheckGroups(t *testing.T) {
	for pattern, want := range map[string]string{
		"Acme/*": "write acme/*", "acme/": "empty component", "/acme": "empty component", "acme**": "must be a whole component", "a,b": "separated by spaces", "acme:1": "unexpected character ':'", "[a": "unbalanced",
	} {
		d := &Directory{URL: "https://gitlab.example.com", Token: "{env.X}", Groups: []string{pattern}}
		if err := d.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", pattern, err, want)
		}
	}
	d := &Directory{URL: "https://gitlab.example.com", Token: "{env.X}", Groups: []string{}}
	if err := d.check(); err == nil {
		t.Error("an empty list is accepted")
	}
}
