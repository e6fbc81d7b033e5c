package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestRegistryVerifiesRejectedHead checks that a GET decides after a HEAD has failed,
// except for statuses of an overloaded registry.
func TestRegistryVerifiesRejectedHead(t *testing.T) {
	for status, gets := range map[int]int{400: 1, 403: 1, 404: 1, 405: 1, 406: 1, 410: 1, 451: 1, 500: 1, 501: 1, 429: 0, 502: 0, 503: 0, 504: 0} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			r := registrytest.New(t)
			image := r.PutImage("a", "1", []byte("content"))
			r.Fail(registrytest.Failure{Method: http.MethodHead, Status: status})
			u := client(t, r)
			for _, reference := range []string{"1", string(image.Manifest)} {
				m, err := u.ResolveManifest(t.Context(), "a", reference)
				if (err == nil) != (gets == 1) || err == nil && (m.Digest != image.Manifest || m.Content == nil) {
					t.Errorf("manifest %s: got %+v, %v, want success %v", reference, m.Descriptor, err, gets == 1)
				}
			}
			size, err := u.StatBlob(t.Context(), "a", image.Layers[0], -1)
			if (err == nil) != (gets == 1) || err == nil && size != 7 {
				t.Errorf("blob: got %d, %v, want success %v", size, err, gets == 1)
			}
			if got := r.Counts(); got.ManifestGet != 2*gets || got.BlobGet != gets || got.ManifestHead != 2 || got.BlobHead != 1 {
				t.Errorf("got requests %+v, want %d GETs for each HEAD", got, gets)
			}
		})
	}
}

// TestRegistryTrustsConfirmedHead checks that HEAD is trusted for an hour after a GET
// has confirmed an absence, unless it has never succeeded or was contradicted
// within a day.
func TestRegistryTrustsConfirmedHead(t *testing.T) {
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
			t.Errorf("tag %s: got %v, want kind %v", tag, err, kind)
		}
		if got := r.Counts(); got.ManifestHead != 1 || got.ManifestGet != gets {
			t.Errorf("tag %s: got requests %+v, want 1 HEAD and %d GETs", tag, got, gets)
		}
	}
	ask("none", ManifestUnknown, 1)
	ask("none", ManifestUnknown, 0)
	ask("other", ManifestUnknown, 1) // the registry may reject every HEAD
	ask("1", Other, 0)
	ask("another", ManifestUnknown, 0)
	now = now.Add(headTrustPeriod)
	ask("another", ManifestUnknown, 1)
	ask("1", Other, 0)

	r.Fail(registrytest.Failure{Method: http.MethodHead, Status: http.StatusNotFound})
	now = now.Add(headTrustPeriod)
	ask("1", Other, 1)
	ask("none", ManifestUnknown, 1)
	ask("1", Other, 1)
	r.Heal()
	// HEAD finds the tag again, as at a pull-through registry after a GET.
	ask("1", Other, 0)
	for range 2 {
		ask("other", ManifestUnknown, 1)
	}
	r.PutImage("a", "other", []byte("fetched"))
	r.Fail(registrytest.Failure{Method: http.MethodHead, Status: http.StatusNotFound, Times: 1})
	ask("other", Other, 1)
	now = now.Add(headDistrustPeriod)
	ask("none", ManifestUnknown, 1)
	ask("another", ManifestUnknown, 0)
}

// TestRegistrySkipsUselessHead checks that no HEAD is sent for an hour to a registry
// that does not know the method, or has failed the HEAD for a manifest twice, unless
// some HEAD has succeeded.
func TestRegistrySkipsUselessHead(t *testing.T) {
	for status, heads := range map[int]int{400: 2, 403: 2, 404: 2, 405: 1, 406: 2, 500: 2, 501: 1} {
		r := registrytest.New(t)
		image := r.PutImage("a", "1", []byte("content"))
		r.Fail(registrytest.Failure{Method: http.MethodHead, Status: status})
		u := client(t, r)
		now := time.Now()
		u.now = func() time.Time { return now }
		ask := func(want registrytest.Counts) {
			t.Helper()
			for range 5 {
				if m, err := u.ResolveManifest(t.Context(), "a", "1"); err != nil || m.Digest != image.Manifest || m.Content == nil {
					t.Errorf("HEAD is %d: got %+v, %v, want the content", status, m.Descriptor, err)
				}
			}
			if got := r.Counts(); got != want {
				t.Errorf("HEAD is %d: got requests %+v, want %+v", status, got, want)
			}
			r.Reset()
		}
		ask(registrytest.Counts{ManifestHead: heads, ManifestGet: 5})
		ask(registrytest.Counts{ManifestGet: 5})
		now = now.Add(headSkipPeriod)
		ask(registrytest.Counts{ManifestHead: 1, ManifestGet: 5})
		r.Heal()
		now = now.Add(headSkipPeriod)
		if m, err := u.ResolveManifest(t.Context(), "a", "1"); err != nil || m.Content != nil {
			t.Errorf("HEAD works: got %+v, %v, want no content", m.Descriptor, err)
		}
		r.Fail(registrytest.Failure{Method: http.MethodHead, Status: status})
		r.Reset()
		ask(registrytest.Counts{ManifestHead: 5, ManifestGet: 5})
	}
}

// TestRegistryHeadWithoutDigest checks that a HEAD that tells no digest is of no use.
func TestRegistryHeadWithoutDigest(t *testing.T) {
	r := registrytest.New(t, registrytest.WithoutDigestHeader())
	r.PutImage("a", "1", []byte("content"))
	u := client(t, r)
	for range 5 {
		if m, err := u.ResolveManifest(t.Context(), "a", "1"); err != nil || m.Content == nil {
			t.Errorf("got %+v, %v, want the content", m.Descriptor, err)
		}
	}
	if got := r.Counts(); got.ManifestHead != 2 || got.ManifestGet != 5 {
		t.Errorf("got requests %+v, want 2 HEADs and 5 GETs", got)
	}
}

// TestRegistryStatBlobInvalid checks that a response that contradicts the known size
// or digest, or is a web page, does not confirm a blob.
func TestRegistryStatBlobInvalid(t *testing.T) {
	r := registrytest.New(t)
	d := r.PutBlob("a", []byte("content"))
	u := client(t, r)
	for name, row := range map[string]struct {
		known  int64
		header http.Header
		method string // the requests with this header, "" for all
		ok     bool
	}{
		"known size":             {7, nil, "", true},
		"another size":           {8, nil, "", false},
		"HEAD of another size":   {7, http.Header{"Content-Length": {"8"}}, http.MethodHead, true},
		"HEAD of another digest": {7, http.Header{"Content-Length": {"7"}, "Docker-Content-Digest": {string(digestOf("other"))}}, http.MethodHead, true},
		"another digest":         {7, http.Header{"Content-Length": {"7"}, "Docker-Content-Digest": {string(digestOf("other"))}}, "", false},
		"HEAD is a web page":     {7, http.Header{"Content-Length": {"7"}, "Content-Type": {"text/html"}}, http.MethodHead, true},
		"web page":               {7, http.Header{"Content-Length": {"7"}, "Content-Type": {"text/html; charset=utf-8"}}, "", false},
		"web page, not known":    {-1, http.Header{"Content-Length": {"7"}, "Content-Type": {"text/html"}}, "", false},
		"HEAD with length 0":     {7, http.Header{"Content-Length": {"0"}}, http.MethodHead, true},
	} {
		t.Run(name, func(t *testing.T) {
			if row.header != nil {
				r.Fail(registrytest.Failure{Method: row.method, Status: http.StatusOK, Header: row.header})
			}
			defer r.Heal()
			size, err := u.StatBlob(t.Context(), "a", d, row.known)
			if row.ok && (err != nil || size != 7) {
				t.Errorf("got %d, %v, want 7", size, err)
			}
			if !row.ok {
				wantKind(t, err, Invalid)
			}
		})
	}
}

// TestRegistryPlainHTTPConfirmsNothing checks that after a redirect from https to plain
// http, headers do not confirm a blob and its body is marked as plain.
func TestRegistryPlainHTTPConfirmsNothing(t *testing.T) {
	r := registrytest.New(t, registrytest.WithTLS(), registrytest.WithBlobRedirect())
	image := r.PutImage("a", "1", []byte("content"))
	u := client(t, r, func(c *Config) { c.Transport = r.Transport() })
	for _, known := range []int64{-1, 7} {
		_, err := u.StatBlob(t.Context(), "a", image.Layers[0], known)
		wantKind(t, err, Invalid)
		if !errors.Is(err, ErrPlainHTTP) {
			t.Errorf("known size %d: got %v, want %v", known, err, ErrPlainHTTP)
		}
	}
	if got := r.Counts(); got.Storage != 0 {
		t.Errorf("got %d requests to the storage, want 0", got.Storage)
	}
	for _, offset := range []int64{0, 3} {
		b, err := u.Blob(t.Context(), "a", image.Layers[0], offset, -1, "")
		if err != nil || !b.Plain {
			t.Fatalf("from offset %d: got %+v, %v, want a body with Plain set", offset, b, err)
		}
		_ = b.Close()
	}
	// A manifest by digest is fetched and checked; one by tag cannot be checked.
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
		t.Errorf("by digest: got %d bytes, %v, want the content", len(m.Content), err)
	}
	if _, err := u.ResolveManifest(t.Context(), "a", "1"); !errors.Is(err, ErrPlainHTTP) {
		t.Errorf("by tag: got %v, want %v", err, ErrPlainHTTP)
	}
}
