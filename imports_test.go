package dependencyproxy

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/dependencyproxy/caddy-dependency-proxy/"

// permitted lists the packages of this module and what each may import of the
// others. The edges lead one way: from Caddy's handler, through what it asks, to
// the engines, which know nothing of it and little of each other. A new edge is
// a decision about the layout.
var permitted = map[string]string{
	"caddymodule": "blobcache blobcache/fill blobcache/index blobcache/store " +
		"caddymodule/access caddymodule/admin caddymodule/audit caddymodule/credential caddymodule/directory caddymodule/directory/password caddymodule/directory/static caddymodule/events caddymodule/freshness caddymodule/health caddymodule/internal/parse caddymodule/internal/pool caddymodule/metrics caddymodule/page caddymodule/peers caddymodule/record caddymodule/redirect caddymodule/source caddymodule/storage caddymodule/traces caddymodule/usage " +
		"pullthrough reference tokenissuer tokenissuer/accesstoken upstream upstream/auth upstream/dial upstream/mediatype upstream/ratelimit",
	"caddymodule/access":                   "caddymodule/directory caddymodule/directory/password caddymodule/internal/parse caddymodule/traces reference tokenissuer tokenissuer/accesstoken",
	"caddymodule/admin":                    "blobcache caddymodule/access caddymodule/directory caddymodule/events caddymodule/health caddymodule/metrics caddymodule/peers caddymodule/record caddymodule/storage pullthrough tokenissuer/accesstoken",
	"caddymodule/audit":                    "caddymodule/record",
	"caddymodule/credential":               "caddymodule/internal/parse internal/flight upstream/auth",
	"caddymodule/directory":                "caddymodule/internal/parse reference tokenissuer upstream/dial",
	"caddymodule/directory/authentication": "caddymodule/directory caddymodule/directory/password caddymodule/directory/static caddymodule/internal/parse reference",
	"caddymodule/directory/gitlab":         "caddymodule/directory caddymodule/directory/password caddymodule/internal/parse caddymodule/internal/pool internal/gitlabapi internal/memo",
	"caddymodule/directory/ldap":           "caddymodule/directory caddymodule/internal/parse caddymodule/internal/pool internal/memo internal/secret",
	"caddymodule/directory/oidc":           "caddymodule/directory caddymodule/internal/parse internal/memo",
	"caddymodule/directory/password":       "caddymodule/directory",
	"caddymodule/directory/static":         "caddymodule/directory caddymodule/directory/password caddymodule/internal/parse",
	"caddymodule/events":                   "blobcache blobcache/index tokenissuer/accesstoken upstream",
	"caddymodule/freshness":                "caddymodule/access caddymodule/internal/parse pullthrough",
	"caddymodule/health":                   "caddymodule/access caddymodule/directory upstream upstream/ratelimit",
	"caddymodule/internal/parse":           "",
	"caddymodule/internal/pool":            "",
	"caddymodule/internal/sitetest":        "caddymodule/access caddymodule/admin caddymodule/directory caddymodule/directory/password caddymodule/internal/parse caddymodule/internal/pool caddymodule/metrics internal/gitlabtest internal/ldaptest internal/porttest internal/registrytest internal/s3test tokenissuer/accesstoken",
	"caddymodule/integration/cluster":      "",
	"caddymodule/integration/login":        "",
	"caddymodule/integration/pull":         "",
	"caddymodule/metrics":                  "blobcache blobcache/fill blobcache/store caddymodule/access caddymodule/directory caddymodule/directory/password caddymodule/internal/parse caddymodule/peers caddymodule/record caddymodule/storage upstream",
	"caddymodule/record":                   "",
	"caddymodule/redirect":                 "",
	"caddymodule/page":                     "blobcache/index caddymodule/access caddymodule/admin caddymodule/directory caddymodule/health caddymodule/peers caddymodule/usage",
	"caddymodule/peers":                    "blobcache/fill caddymodule/internal/parse caddymodule/internal/pool internal/breaker pullthrough reference tokenissuer upstream",
	"caddymodule/source":                   "caddymodule/credential caddymodule/events caddymodule/internal/pool caddymodule/metrics caddymodule/traces upstream upstream/auth upstream/dial",
	"caddymodule/storage":                  "blobcache blobcache/fill blobcache/store caddymodule/internal/parse",
	"caddymodule/storage/s3":               "blobcache blobcache/fill blobcache/store blobcache/store/bucket caddymodule/internal/parse caddymodule/metrics caddymodule/storage",
	"caddymodule/usage":                    "blobcache/index blobcache/store caddymodule/record",
	"caddymodule/traces":                   "caddymodule/record",

	"pullthrough": "blobcache blobcache/fill blobcache/index blobcache/store internal/flight internal/memo upstream upstream/mediatype upstream/ratelimit",

	"blobcache":                              "blobcache/fill blobcache/index blobcache/internal/buffer blobcache/store",
	"blobcache/fill":                         "blobcache/internal/buffer blobcache/store",
	"blobcache/index":                        "blobcache/store",
	"blobcache/internal/buffer":              "",
	"blobcache/internal/leaktest":            "blobcache/internal/buffer",
	"blobcache/store":                        "",
	"blobcache/store/bucket":                 "blobcache/index blobcache/store internal/breaker internal/flight internal/memo",
	"blobcache/store/storetest":              "blobcache/store",
	"reference":                              "",
	"tokenissuer":                            "internal/flight tokenissuer/internal/record",
	"tokenissuer/accesstoken":                "internal/flight tokenissuer/internal/record",
	"tokenissuer/internal/record":            "",
	"upstream":                               "internal/flight internal/memo reference upstream/auth upstream/circuit upstream/dial upstream/header upstream/internal/origin upstream/mediatype upstream/ratelimit",
	"upstream/auth":                          "internal/secret upstream/header upstream/internal/origin",
	"upstream/circuit":                       "",
	"upstream/dial":                          "",
	"upstream/header":                        "reference",
	"upstream/internal/origin":               "",
	"upstream/mediatype":                     "",
	"upstream/ratelimit":                     "upstream/header",
	"internal/breaker":                       "",
	"internal/flight":                        "",
	"internal/gitlabapi":                     "",
	"internal/gitlabtest":                    "",
	"internal/ldaptest":                      "internal/porttest",
	"internal/memo":                          "internal/flight",
	"internal/oidctest":                      "",
	"internal/porttest":                      "",
	"internal/registrytest":                  "",
	"internal/s3test":                        "",
	"internal/secret":                        "",
	"tokenissuer/internal/record/recordtest": "",
}

// engines work without Caddy: they can be used, read and tested alone. They
// report by errors and hooks, so they have no logger either. A download has a span in
// the trace of the request that starts it, by the API of OpenTelemetry alone: what
// becomes of spans is up to the program, which has the SDK.
var engines = []string{"blobcache", "pullthrough", "reference", "tokenissuer", "upstream"}

// TestImports checks which packages import each other.
func TestImports(t *testing.T) {
	seen := make(map[string]bool)
	for line := range strings.Lines(list(t, "./...")) {
		imports := strings.Fields(line)
		name, ours := strings.CutPrefix(imports[0], module)
		if !ours || name == "e2e" || strings.HasPrefix(name, "bench/") {
			continue // this package, and programs
		}
		allowed, known := permitted[name]
		if !known {
			t.Errorf("package %s is not in the table of permitted imports", name)
		}
		seen[name] = true
		for _, imported := range imports[1:] {
			if other, ours := strings.CutPrefix(imported, module); ours && !slices.Contains(strings.Fields(allowed), other) {
				t.Errorf("%s imports %s, which is not permitted", name, other)
			}
		}
		for _, other := range strings.Fields(allowed) {
			if !slices.Contains(imports[1:], module+other) {
				t.Errorf("%s does not import %s, which is permitted; remove it from the table", name, other)
			}
		}
	}
	for name := range permitted {
		if !seen[name] {
			t.Errorf("package %s of the table does not exist", name)
		}
	}
}

// TestEnginesWithoutCaddy checks that no engine depends on Caddy, has a logger or
// exports spans.
func TestEnginesWithoutCaddy(t *testing.T) {
	for _, engine := range engines {
		for line := range strings.Lines(list(t, "-deps", "./"+engine+"/...")) {
			imports := strings.Fields(line)
			for _, banned := range []string{"github.com/caddyserver/", "go.uber.org/zap", "go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/exporters", "go.opentelemetry.io/contrib"} {
				if strings.HasPrefix(imports[0], banned) {
					t.Errorf("%s depends on %s", engine, imports[0])
				}
			}
			if strings.HasPrefix(imports[0], module) && (slices.Contains(imports, "log") || slices.Contains(imports, "log/slog")) {
				t.Errorf("%s logs", imports[0])
			}
		}
	}
}

// list returns a line for each package: its path, and those of its imports.
func list(t *testing.T, args ...string) string {
	t.Helper()
	args = append([]string{"list", "-f", `{{.ImportPath}} {{join .Imports " "}}`}, args...)
	output, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, output)
	}
	return string(output)
}
