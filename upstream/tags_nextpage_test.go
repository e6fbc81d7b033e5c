package upstream

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
)

// FuzzNextPage checks that no link selects a page by parameters that are not the
// specification's or sealed, or that are longer than a cursor may be.
func FuzzNextPage(f *testing.F) {
	for _, seed := range []string{"?last=b&n=2", "?page=2", "//host/?last=a", "?a=b;c", "https://registry.example:443/v2/a/tags/list?x=%0a", "?n=1", "?"} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	base, err := url.Parse("https://registry.example/v2/a/tags/list?n=1")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, target string, foreign bool) {
		resp := &response{&http.Response{Header: http.Header{"Link": {"<" + target + `>; rel="next"`}}}, newTrail(base)}
		resp.foreign = foreign
		next, cut := nextPage(resp, base)
		if next != nil && (cut != "" || next.Encode() == base.RawQuery) {
			t.Fatalf("%q: got %v and cut %q", target, next, cut)
		}
		if !next.Has(CursorParameter) {
			if selected := selectPage(next); len(selected) != len(next) {
				t.Fatalf("%q: got %v, want parameters of the specification only", target, next)
			}
			return
		}
		if cursor := next.Get(CursorParameter); foreign || len(next) != 1 || len(next.Encode()) > maxCursor || !header.IsVisible(cursor) || !strings.Contains(target, cursor) {
			t.Fatalf("%q: got %v of a foreign server %v, want a query of the same address", target, next, foreign)
		}
	})
}
