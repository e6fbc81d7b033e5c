package admin

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/health"
)

// run runs a command at an admin API and returns its output.
func run(t *testing.T, api http.HandlerFunc, args ...string) (string, error) {
	t.Helper()
	server := httptest.NewServer(api)
	defer server.Close()
	var out strings.Builder
	root := new(cobra.Command)
	addCommands(root)
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(append(args, "--address", strings.TrimPrefix(server.URL, "http://")))
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// TestWarmCommandTriesAgain checks that the command asks again if the connection breaks,
// before the response or in it, but not for ever, and not if Caddy has refused.
func TestWarmCommandTriesAgain(t *testing.T) {
	triesPause = time.Millisecond
	t.Cleanup(func() { triesPause = time.Second })
	for _, test := range []struct {
		breaks int32
		failed bool
	}{{0, false}, {2, false}, {maxTries - 1, false}, {maxTries, true}} {
		var asked atomic.Int32
		out, err := run(t, func(w http.ResponseWriter, r *http.Request) {
			n := asked.Add(1)
			if n%2 == 1 && n <= test.breaks {
				panic(http.ErrAbortHandler)
			}
			_ = json.NewEncoder(w).Encode(WarmState{Image: "acme/alpine"})
			_ = http.NewResponseController(w).Flush()
			if n <= test.breaks {
				panic(http.ErrAbortHandler)
			}
			_ = json.NewEncoder(w).Encode(WarmState{Image: "acme/alpine", Done: true})
		}, "cache", "warm", "acme/alpine")
		if (err != nil) != test.failed || asked.Load() != min(test.breaks+1, maxTries) || strings.Contains(out, "closed") != test.failed {
			t.Errorf("%d breaks: got %d requests, error %v and %s", test.breaks, asked.Load(), err, out)
		}
	}
	var asked atomic.Int32
	if _, err := run(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusBadRequest)
	}, "cache", "warm", "acme/alpine"); err == nil || asked.Load() != 1 {
		t.Errorf("refused: got %d requests and error %v, want one of each", asked.Load(), err)
	}
}

// TestCommandsTryAgain checks that a command that only asks does so again if the
// connection breaks, and that one that changes something does not.
func TestCommandsTryAgain(t *testing.T) {
	triesPause = time.Millisecond
	t.Cleanup(func() { triesPause = time.Second })
	for _, test := range []struct {
		args   []string
		asked  int32
		failed bool
	}{{[]string{"status"}, 3, false}, {[]string{"cache", "missing"}, 3, false}, {[]string{"token", "create", "--group", "acme"}, 1, true}} {
		var asked atomic.Int32
		_, err := run(t, func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) < 3 {
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write([]byte("{}"))
		}, test.args...)
		if (err != nil) != test.failed || asked.Load() != test.asked {
			t.Errorf("%q: got %d requests and error %v, want %d requests, error: %t", test.args, asked.Load(), err, test.asked, test.failed)
		}
	}
}

// A server can write what it likes into its errors, which a terminal must not obey.
func TestCommandsPrintNoControls(t *testing.T) {
	const hostile = "bad \x1b]0;title\x07 \x1b[2J\r\nok\u202e\x00"
	answers := map[string]any{
		statusPath: Status{
			Caches: []CacheStatus{{Storage: "filesystem /cache"}}, Errors: []LogLine{{Level: "warn", Message: hostile, Fields: map[string]string{"error": hostile}}},
			Sites: []SiteStatus{{Upstreams: []UpstreamStatus{{Down: true, DownSince: new(time.Time), LastError: hostile}}, Directories: []health.Part{{Name: "ldap", Status: health.Unavailable, Error: hostile}}}},
		},
		warmPath: WarmState{Done: true, Error: hostile},
	}
	for _, args := range [][]string{{"status"}, {"cache", "warm", hostile}} {
		out, _ := run(t, func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(answers[r.URL.Path]) }, args...)
		if strings.Count(out, "bad") < 2 || strings.ContainsAny(out, "\x1b\x07\r\u202e\x00") {
			t.Errorf("%q: got %q, want it without control characters", args, out)
		}
	}
}
