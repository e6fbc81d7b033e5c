package upstream

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// isLoop reports whether a client recognizes a request as one of its own.
func isLoop(u *Registry, header http.Header) bool {
	return KindOf(NewMirrors(u).CheckVia(header)) == Loop
}

// TestRegistryVia checks that a client recognizes its own requests, also by way of other
// clients, and that nothing else of a Via is passed on.
func TestRegistryVia(t *testing.T) {
	r := registrytest.New(t, registrytest.WithToken("", ""), registrytest.WithBlobRedirect())
	d := r.PutBlob("a", []byte("content"))
	var got []http.Header
	r.SetFault(func(_ http.ResponseWriter, req *http.Request) bool {
		got = append(got, req.Header)
		return false
	})
	one, two := client(t, r), client(t, r)
	ask := func(u *Registry, via ...string) http.Header {
		t.Helper()
		ctx := WithVia(context.Background(), http.Header{"Via": via})
		got = nil
		if _, err := u.StatBlob(ctx, "a", d, -1); err != nil {
			t.Fatal(err)
		}
		for _, header := range got {
			if header.Get("Via") != got[0].Get("Via") || len(header["Via"]) != 1 {
				t.Errorf("got the Vias %q and %q, want the same in each request", got[0]["Via"], header["Via"])
			}
		}
		return got[0]
	}
	first := ask(one)
	if isLoop(one, nil) || !isLoop(one, first) || isLoop(two, first) {
		t.Errorf("Via %q: got %t, %t, want only the client that sent it to recognize it", first["Via"], isLoop(one, first), isLoop(two, first))
	}
	second := ask(two, "1.1 Caddy, secret", first.Get("Via")+" (comment)", "2 dependency-proxy-forged\x00, 1.0 x")
	if !isLoop(one, second) || !isLoop(two, second) {
		t.Errorf("Via %q: got %t, %t, want both clients to recognize it", second["Via"], isLoop(one, second), isLoop(two, second))
	}
	if want := first.Get("Via") + ", 1.1 " + two.pseudonym; second.Get("Via") != want {
		t.Errorf("got Via %q, want %q", second.Get("Via"), want)
	}
	forged := strings.Repeat("1.1 "+newPseudonym()+",", 2*maxVia)
	if isLoop(one, http.Header{"Via": {forged}}) || !isLoop(one, http.Header{"Via": {forged, first.Get("Via")}}) {
		t.Error("a Via with many forged pseudonyms: got another answer than without them")
	}
	if got, want := ask(two, forged), maxVia+1; strings.Count(got.Get("Via"), ",")+1 != want {
		t.Errorf("got Via %q, want %d entries", got.Get("Via"), want)
	}
}

// TestRegistryLoopError checks that the error of a request that has come back to a proxy
// has its own kind, for HEAD too.
func TestRegistryLoopError(t *testing.T) {
	r := registrytest.New(t)
	u, d := client(t, r), digest.FromString("x")
	for _, failure := range []registrytest.Failure{
		{Status: 508}, {Status: 502, Header: http.Header{"Cache-Status": {LoopStatus}}},
	} {
		r.Heal()
		r.Fail(failure)
		_, err := u.ResolveManifest(t.Context(), "a", "latest")
		wantKind(t, err, Loop)
		_, err = u.Blob(t.Context(), "a", d, 0, 10, "")
		wantKind(t, err, Loop)
	}
	r.Heal()
	r.Fail(registrytest.Failure{Status: 502, Header: http.Header{"Cache-Status": {"dependency-proxy; fwd=miss"}}})
	_, err := u.Blob(t.Context(), "a", d, 0, 10, "")
	wantKind(t, err, Unavailable)
}
