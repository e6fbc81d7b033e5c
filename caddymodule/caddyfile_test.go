package caddymodule

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

var update = flag.Bool("update", false, "write what is read from the Caddyfiles into the golden files")

// TestCaddyfile checks that each directive of the golden files becomes the JSON
// or the error that the same file contains after a line of dashes.
func TestCaddyfile(t *testing.T) {
	names, err := filepath.Glob("testdata/caddyfile/*.caddyfiletest")
	if err != nil || len(names) < 40 {
		t.Fatalf("got %d golden files, error %v; want at least 40", len(names), err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".caddyfiletest"), func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			directive, want, ok := strings.Cut(string(data), "----------\n")
			if !ok {
				t.Fatal("no line of dashes")
			}
			got := adapt(directive) + "\n"
			if *update {
				if err := os.WriteFile(name, []byte(directive+"----------\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			if isError := strings.Contains(got, "at Caddyfile:"); isError != strings.HasPrefix(filepath.Base(name), "error_") {
				t.Errorf("got %s, want an error if and only if the file's name begins with error_", got)
			}
		})
	}
}

// adapt returns the JSON of the handler, or the text of the error.
func adapt(directive string) string {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(":80 {\n"+directive+"}\n"), nil)
	if err != nil {
		return err.Error()
	}
	var parsed struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes []struct {
						Handle []json.RawMessage `json:"handle"`
					} `json:"routes"`
				} `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(config, &parsed); err != nil {
		return err.Error()
	}
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetIndent("", "\t")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(parsed.Apps.HTTP.Servers["srv0"].Routes[0].Handle[0]); err != nil {
		return err.Error()
	}
	return strings.TrimSpace(out.String())
}
