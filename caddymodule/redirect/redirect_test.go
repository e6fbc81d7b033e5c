package redirect

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/opencontainers/go-digest"
)

const signed = "https://s3.example.com/images/blob?X-Amz-Signature=secret"

// TestSafe checks to which hosts clients may be sent. A client of Go sends its login on
// to the same host and to those below it.
func TestSafe(t *testing.T) {
	for _, row := range []struct {
		target, registry string
		want             bool
	}{
		{"https://s3.example.com/x", "registry.example.com", true},
		{"https://s3.example.com/x", "registry.example.com:8443", true},
		{"https://registry.example.com:9000/x", "registry.example.com", false},
		{"https://REGISTRY.example.com/x", "registry.Example.com:443", false},
		{"https://images.registry.example.com/x", "registry.example.com", false},
		{"https://registry.example.com/x", "images.registry.example.com", true},
		{"https://myregistry.example.com/x", "registry.example.com", true},
		{"http://127.0.0.1:9000/x", "127.0.0.1:8080", false},
		{"http://[::1]:9000/x", "[::1]:8080", false},
		{"http://[::1]:9000/x", "[::1]", false},
		{"http://127.0.0.1:9000/x", "localhost:8080", true},
		{"https://s3.example.com/x", "", false},
	} {
		target, err := url.Parse(row.target)
		if err != nil {
			t.Fatal(err)
		}
		if got := Safe(target, row.registry); got != row.want {
			t.Errorf("from %s to %s: got %v, want %v", row.registry, row.target, got, row.want)
		}
	}
}

// TestUnderstood checks which requests can be redirected.
func TestUnderstood(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*http.Request)
		want   bool
	}{
		"GET":      {func(*http.Request) {}, true},
		"HEAD":     {func(r *http.Request) { r.Method = http.MethodHead }, false},
		"a range":  {func(r *http.Request) { r.Header.Set("Range", "bytes=0-") }, false},
		"HTTP/1.0": {func(r *http.Request) { r.ProtoMinor = 0 }, false},
		"HTTP/2":   {func(r *http.Request) { r.ProtoMajor, r.ProtoMinor = 2, 0 }, true},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		row.change(r)
		if got := Understood(r); got != row.want {
			t.Errorf("%s: got %v, want %v", name, got, row.want)
		}
	}
}

// TestSendHidesSignature checks that the client gets the whole URL, and that the header
// which an access log reads later has no signature, unless the header is not sent yet.
func TestSendHidesSignature(t *testing.T) {
	target, err := url.Parse(signed)
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("x")
	for name, row := range map[string]struct {
		wrap func(http.ResponseWriter) http.ResponseWriter
		want string // what a log reads
	}{
		"logged":   {func(w http.ResponseWriter) http.ResponseWriter { return w }, "https://s3.example.com/images/blob?REDACTED"},
		"buffered": {buffer, signed},
	} {
		for _, version := range []int{1, 2} {
			t.Run(name, func(t *testing.T) {
				var logged string
				server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					recorder := caddyhttp.NewResponseRecorder(w, nil, nil)
					wrapped := row.wrap(recorder)
					Send(wrapped, d, target)
					if buffered, ok := wrapped.(caddyhttp.ResponseRecorder); ok && buffered.Buffered() {
						_ = buffered.WriteResponse()
					}
					logged = recorder.Header().Get("Location")
				}))
				server.EnableHTTP2 = version == 2
				server.StartTLS()
				defer server.Close()
				client := server.Client()
				client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				answer, err := client.Get(server.URL)
				if err != nil {
					t.Fatal(err)
				}
				defer answer.Body.Close()
				body, err := io.ReadAll(answer.Body)
				if err != nil || answer.StatusCode != http.StatusTemporaryRedirect || answer.ProtoMajor != version || string(body) != note {
					t.Errorf("got status %d by HTTP/%d, body %q, %v", answer.StatusCode, answer.ProtoMajor, body, err)
				}
				if got := answer.Header.Get("Location"); got != signed {
					t.Errorf("the client got %q, want %q", got, signed)
				}
				if !strings.Contains(answer.Header.Get("Cache-Control"), "no-store") || answer.Header.Get("Docker-Content-Digest") != d.String() {
					t.Errorf("got the headers %v", answer.Header)
				}
				server.Close()
				if logged != row.want {
					t.Errorf("a log reads %q, want %q", logged, row.want)
				}
			})
		}
	}
}

// buffer is a middleware that holds back a response.
func buffer(w http.ResponseWriter) http.ResponseWriter {
	return caddyhttp.NewResponseRecorder(w, new(bytes.Buffer), func(int, http.Header) bool { return true })
}
