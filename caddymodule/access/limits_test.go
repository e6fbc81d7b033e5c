package access

import (
	"slices"
	"strings"
	"testing"
)

// TestImageLimitsDecide checks that the limits of a group and of all groups above
// it apply, and that deny takes precedence.
func TestImageLimitsDecide(t *testing.T) {
	limits, err := NewImageLimits([]Group{
		{Path: "acme", Allow: []string{"docker.io/**"}, Deny: []string{"docker.io/library/node"}},
		{Path: "acme/sub/deep", Allow: []string{"docker.io/library/*", "ghcr.io/**"}},
		{Path: "open"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		group, upstream, repository string
		allowed                     bool
		rule                        string // or the rules, if allowed
	}{
		{"acme", "docker.io", "team/app", true, "group acme: allow docker.io/**"},
		{"acme", "docker.io", "library/node", false, "group acme: deny docker.io/library/node"},
		{"acme", "ghcr.io", "team/app", false, "group acme: no allow pattern matches ghcr.io/team/app:1"},
		{"acme/sub", "docker.io", "team/app", true, "group acme: allow docker.io/**"},
		{"acme/sub/deep", "docker.io", "library/alpine", true, "group acme/sub/deep: allow docker.io/library/*, group acme: allow docker.io/**"},
		{"acme/sub/deep", "docker.io", "team/app", false, "group acme/sub/deep: no allow pattern matches docker.io/team/app:1"},
		{"acme/sub/deep", "ghcr.io", "team/app", false, "group acme: no allow pattern matches ghcr.io/team/app:1"},
		{"acme/sub/deep", "docker.io", "library/node", false, "group acme: deny docker.io/library/node"},
		{"acmeplus", "ghcr.io", "team/app", true, ""},
		{"open", "ghcr.io", "team/app", true, ""},
	} {
		image := NewImage(row.upstream, row.repository, "1")
		got := limits.Decide(row.group, image)
		if rule := got.Rule + strings.Join(got.Rules, ", "); got.Allowed != row.allowed || rule != row.rule {
			t.Errorf("%s in %s: got %t by %q, want %t by %q", image, row.group, got.Allowed, rule, row.allowed, row.rule)
		}
	}
	want := []string{"group acme/sub/deep: allow docker.io/library/* ghcr.io/**", "group acme: allow docker.io/**", "group acme: deny docker.io/library/node"}
	if got := limits.Lines("acme/sub/deep"); !slices.Equal(got, want) {
		t.Errorf("lines: got %q, want %q", got, want)
	}
}
