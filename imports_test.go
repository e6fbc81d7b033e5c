package dependencyproxy

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestImports holds the shape of the code. What knows registries, tokens and
// content can be used, read and tested without Caddy, and each package without
// the others, except for what permitted lists: caddymodule alone joins them, so
// that a change of Caddy's API, or of one of them, stays in one place. They
// report by errors and hooks, so none has a logger either.
func TestImports(t *testing.T) {
	const module = "github.com/dependencyproxy/caddy-dependency-proxy/"
	permitted := map[string][]string{ // with the packages below them
		"blobcache":               {"blobcache"},
		"pullthrough":             {"blobcache", "internal/memo", "internal/secret", "reference", "upstream"},
		"tokenissuer":             {"tokenissuer/internal/record"},
		"tokenissuer/accesstoken": {"tokenissuer/internal/record"},
		"upstream":                {"internal/secret", "reference"},
	}
	for _, part := range []string{"blobcache", "pullthrough", "reference", "tokenissuer", "tokenissuer/accesstoken", "upstream"} {
		output, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./"+part).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, output)
		}
		for line := range strings.Lines(string(output)) {
			imports := strings.Fields(line)
			dependency := imports[0]
			for _, banned := range []string{"github.com/caddyserver/", "go.uber.org/"} {
				if strings.HasPrefix(dependency, banned) {
					t.Errorf("%s depends on %s", part, dependency)
				}
			}
			own, ok := strings.CutPrefix(dependency, module)
			if !ok {
				continue
			}
			if own != part && !slices.ContainsFunc(permitted[part], func(p string) bool { return own == p || strings.HasPrefix(own, p+"/") }) {
				t.Errorf("%s depends on %s", part, own)
			}
			if slices.Contains(imports, "log") || slices.Contains(imports, "log/slog") {
				t.Errorf("%s logs", part)
			}
		}
	}
}
