package caddymodule

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// FuzzChallenge checks that a challenge sends the password to a host and port
// only, whatever host a client or a proxy names, and that its parameters cannot
// be escaped.
func FuzzChallenge(f *testing.F) {
	for _, seed := range []string{"registry.example.com", "[::1]:5000", "a:1", `x",realm="y`, "a@b", "a/b", "a?b", "a#b", "a\\b", "ä.example", "a b", "1.2.3.4:0", "[::1%25eth0]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, authority string) {
		ex := &exchange{handler: new(Handler), r: &http.Request{Host: authority}}
		o, refusal := ex.handler.findOrigin(ex.r)
		if refusal != nil {
			return
		}
		header := make(http.Header)
		ex.origin, ex.w = o, headerOnly{header: header}
		_ = ex.challenge("", "log in")
		challenge := header.Get("WWW-Authenticate")
		realm, rest, ok := strings.Cut(strings.TrimPrefix(challenge, `Bearer realm="`), `",service="dependency_proxy"`)
		u, err := url.Parse(realm)
		if !ok || rest != "" || err != nil || u.Scheme != "http" || u.Path != "/jwt/auth" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			t.Fatalf("%q: got %s, want a realm with a host and a port only", authority, challenge)
		}
		if u.Host != strings.ToLower(authority) {
			t.Fatalf("%q: got the host %q, want it in lower case", authority, u.Host)
		}
	})
}

// headerOnly is a response of which only the header is used.
type headerOnly struct {
	http.ResponseWriter
	header http.Header
}

func (h headerOnly) Header() http.Header { return h.header }
