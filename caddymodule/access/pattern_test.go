package access

import "testing"

// TestPatternAllowsAndDenies checks which requests a pattern allows and denies. A
// request of a manifest by tag has a tag; one by digest, of a blob or of a list
// has none.
func TestPatternAllowsAndDenies(t *testing.T) {
	for _, row := range []struct {
		pattern, upstream, repository, tag string
		allows, denies                     bool
	}{
		{"docker.io/library/alpine", "docker.io", "library/alpine", "3.20", true, true},
		{"docker.io/library/alpine", "docker.io", "library/alpine", "", true, true},
		{"docker.io/library/alpine", "docker.io", "library/alpines", "3.20", false, false},
		{"docker.io/library/alpine", "docker.io", "my/library/alpine", "3.20", false, false},
		{"docker.io/alpine", "docker.io", "library/alpine", "3.20", true, true},
		{"docker.io/*", "docker.io", "library/alpine", "3.20", true, true},
		{"docker.io/*", "docker.io", "team/app", "1", false, false},
		{"*/alpine", "docker.io", "library/alpine", "", true, true},
		{"ghcr.io/alpine", "ghcr.io", "library/alpine", "1", false, false},
		{"docker.io/library/*", "docker.io", "library/alpine", "3.20", true, true},
		{"docker.io/library/*", "docker.io", "library/a/b", "3.20", false, false},
		{"docker.io/*/app", "docker.io", "team/app", "1", true, true},
		{"docker.io/*/app", "docker.io", "team/sub/app", "1", false, false},
		{"docker.io/**", "docker.io", "a/b/c", "1", true, true},
		{"docker.io/**", "ghcr.io", "a/b/c", "1", false, false},
		{"docker.io/**/app", "docker.io", "a/b/app", "1", true, true},
		{"docker.io/**/app", "docker.io", "app", "1", true, true},
		{"ghcr.io/acme/**", "ghcr.io", "acme", "1", true, true},
		{"ghcr.io/acme/**", "ghcr.io", "acme/a/b", "1", true, true},
		{"ghcr.io/acme/**", "ghcr.io", "acmeplus", "1", false, false},
		{"ghcr.io/acme/**", "ghcr.io", "x/acme/a", "1", false, false},
		{"**", "ghcr.io", "acme/a/b", "1", true, true},
		{"*/acme/**", "ghcr.io", "acme/a", "", true, true},
		{"ghcr.io/acme/{app,web}-?", "ghcr.io", "acme/web-1", "1", true, true},
		{"ghcr.io/acme/{app,web}-?", "ghcr.io", "acme/web-11", "1", false, false},
		{"ghcr.io/acme/v[0-9]", "ghcr.io", "acme/v3", "1", true, true},
		{"ghcr.io/acme/[!v]*", "ghcr.io", "acme/v3", "1", false, false},
		// A tag must match as a whole, and case-sensitively.
		{"ghcr.io/acme/app:1.*", "ghcr.io", "acme/app", "1.2", true, true},
		{"ghcr.io/acme/app:1.*", "ghcr.io", "acme/app", "11.2", false, false},
		{"ghcr.io/acme/app:1.*", "ghcr.io", "acme/app", "1", false, false},
		{"ghcr.io/acme/app:RC", "ghcr.io", "acme/app", "RC", true, true},
		{"ghcr.io/acme/app:RC", "ghcr.io", "acme/app", "rc", false, false},
		{"ghcr.io/acme/**:latest", "ghcr.io", "acme/a/b", "latest", true, true},
		{"ghcr.io/acme/*latest*", "ghcr.io", "acme/a", "latest", false, false},
		// Without a tag, allow ignores the tag of the pattern, and deny the pattern.
		{"ghcr.io/acme/app:1.*", "ghcr.io", "acme/app", "", true, false},
		{"ghcr.io/acme/app:1.*", "ghcr.io", "acme/web", "", false, false},
	} {
		p, err := parsePattern(row.pattern)
		if err != nil {
			t.Errorf("%s: %v", row.pattern, err)
			continue
		}
		image := NewImage(row.upstream, row.repository, row.tag)
		if got := p.allows(image); got != row.allows {
			t.Errorf("%s allows %s: got %v, want %v", row.pattern, image, got, row.allows)
		}
		if got := p.denies(image); got != row.denies {
			t.Errorf("%s denies %s: got %v, want %v", row.pattern, image, got, row.denies)
		}
	}
}
