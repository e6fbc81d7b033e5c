package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestHeadRefused: a GET decides where HEAD says no, but not where it would only add
// to the trouble.
func TestHeadRefused(t *testing.T) {
	for status, gets := range map[int]int{400: 1, 403: 1, 404: 1, 405: 1, 406: 1, 410: 1, 451: 1, 500: 1, 501: 1, 429: 0, 502: 0, 503: 0, 504: 0} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			r := registrytest.New(t)
			image := r.PutImage("a", "1", []byte("content"))
			r.Fail(registrytest.Failure{Method: http.MethodHead, Status: status})
			u := client(t, r)
			for _, reference := range []string{"1", string(image.Manifest)} {
				m, err := u.ResolveManifest(t.Context(), "a", reference)
				if (err == nil) != (gets == 1) || err == nil && (m.Digest != image.Manifest || m.Content == nil) {
					t.Errorf("manifest %s: %+v, %v", reference, m.Descriptor, err)
				}
			}
			size, err := u.StatBlob(t.Context(), "a", image.Layers[0], -1)
			if (err == nil) != (gets == 1) || err == nil && size != 7 {
				t.Errorf("blob: %d bytes, %v", size, err)
			}
			if got := r.Counts(); got.ManifestGet != 2*gets || got.BlobGet != gets || got.ManifestHead != 2 || got.BlobHead != 1 {
				t.Errorf("upstream was asked %+v, want %d GETs each", got, gets)
			}
		})
	}
}

// TestHeadBelieved: once GET has agreed on an absence, HEAD alone is believed for an
// hour, unless it has never been right or has been wrong within a day.
func TestHeadBelieved(t *testing.T) {
	r := registrytest.New(t)
	r.PutImage("a", "1", []byte("content"))
	u := client(t, r)
	now := time.Now()
	u.now = func() time.Time { return now }
	ask := func(tag string, kind Kind, gets int) {
		t.Helper()
		r.Reset()
		_, err := u.ResolveManifest(t.Context(), "a", tag)
		if got := KindOf(err); got != kind {
			t.Errorf("tag %s: %v, want kind %v", tag, err, kind)
		}
		if got := r.Counts(); got.ManifestHead != 1 || got.ManifestGet != gets {
			t.Errorf("tag %s: upstream was asked %+v, want %d GETs", tag, got, gets)
		}
	}
	ask("none", ManifestUnknown, 1)
	ask("none", ManifestUnknown, 0)
	ask("other", ManifestUnknown, 1) // HEAD may be one that always says no
	ask("1", Other, 0)
	ask("another", ManifestUnknown, 0)
	now = now.Add(headTrust)
	ask("another", ManifestUnknown, 1)
	ask("1", Other, 0)

	r.Fail(registrytest.Failure{Method: http.MethodHead, Status: http.StatusNotFound})
	now = now.Add(headTrust)
	ask("1", Other, 1)
	ask("none", ManifestUnknown, 1)
	ask("1", Other, 1)
	r.Heal()
	// Its HEAD is right about some again, as that of a registry is that fetches
	// from elsewhere what GET asks for.
	ask("1", Other, 0)
	for range 2 {
		ask("other", ManifestUnknown, 1)
	}
	r.PutImage("a", "other", []byte("fetched"))
	r.Fail(registrytest.Failure{Method: http.MethodHead, Status: http.StatusNotFound, Times: 1})
	ask("other", Other, 1)
	now = now.Add(headDoubt)
	ask("none", ManifestUnknown, 1)
	ask("another", ManifestUnknown, 0)
}

// TestStatBlobContradicted: an answer that contradicts what is known, or is a web
// page, confirms nothing.
func TestStatBlobContradicted(t *testing.T) {
	r := registrytest.New(t)
	d := r.PutBlob("a", []byte("content"))
	u := client(t, r)
	for name, row := range map[string]struct {
		known  int64
		header http.Header
		method string // that is answered so, "" for all
		ok     bool
	}{
		"as known":               {7, nil, "", true},
		"another size":           {8, nil, "", false},
		"HEAD of another size":   {7, http.Header{"Content-Length": {"8"}}, http.MethodHead, true},
		"HEAD of another digest": {7, http.Header{"Content-Length": {"7"}, "Docker-Content-Digest": {string(digestOf("other"))}}, http.MethodHead, true},
		"another digest":         {7, http.Header{"Content-Length": {"7"}, "Docker-Content-Digest": {string(digestOf("other"))}}, "", false},
		"HEAD is a web page":     {7, http.Header{"Content-Length": {"7"}, "Content-Type": {"text/html"}}, http.MethodHead, true},
		"web page":               {7, http.Header{"Content-Length": {"7"}, "Content-Type": {"text/html; charset=utf-8"}}, "", false},
		"web page, not known":    {-1, http.Header{"Content-Length": {"7"}, "Content-Type": {"text/html"}}, "", false},
		"HEAD without a length":  {7, http.Header{"Content-Length": {"0"}}, http.MethodHead, true},
	} {
		t.Run(name, func(t *testing.T) {
			if row.header != nil {
				r.Fail(registrytest.Failure{Method: row.method, Status: http.StatusOK, Header: row.header})
			}
			defer r.Heal()
			size, err := u.StatBlob(t.Context(), "a", d, row.known)
			if row.ok && (err != nil || size != 7) {
				t.Errorf("%d bytes, %v; want 7", size, err)
			}
			if !row.ok {
				wantKind(t, err, Invalid)
			}
		})
	}
}

// TestPlainConfirmsNothing: where an https registry redirects to plain http neither a
// HEAD nor the header of a GET tells of a blob; its content is marked.
func TestPlainConfirmsNothing(t *testing.T) {
	r := registrytest.New(t, registrytest.WithTLS(), registrytest.WithBlobRedirect())
	image := r.PutImage("a", "1", []byte("content"))
	u := client(t, r, func(c *Config) { c.Transport = r.Transport() })
	for _, known := range []int64{-1, 7} {
		_, err := u.StatBlob(t.Context(), "a", image.Layers[0], known)
		wantKind(t, err, Invalid)
		if !errors.Is(err, ErrPlainHTTP) {
			t.Errorf("known size %d: %v, want %v", known, err, ErrPlainHTTP)
		}
	}
	if got := r.Counts(); got.Storage != 0 {
		t.Errorf("the storage was asked %d times, want never", got.Storage)
	}
	for _, offset := range []int64{0, 3} {
		b, err := u.Blob(t.Context(), "a", image.Layers[0], offset, -1, "")
		if err != nil || !b.Plain {
			t.Fatalf("from %d: %+v, %v; want a body that is marked as plain", offset, b, err)
		}
		_ = b.Close()
	}
	// A manifest by digest is fetched whole instead, one by tag not at all.
	manifest := r.RawManifest("a", image.Manifest)
	r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		if req.TLS != nil {
			http.Redirect(w, req, "http://"+r.StorageHost()+"/manifest", http.StatusFound)
			return true
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", string(image.Manifest))
		_, _ = w.Write(manifest)
		return true
	})
	if m, err := u.ResolveManifest(t.Context(), "a", string(image.Manifest)); err != nil || string(m.Content) != string(manifest) {
		t.Errorf("by digest: %d bytes, %v; want the content", len(m.Content), err)
	}
	if _, err := u.ResolveManifest(t.Context(), "a", "1"); !errors.Is(err, ErrPlainHTTP) {
		t.Errorf("by tag: %v, want %v", err, ErrPlainHTTP)
	}
}
