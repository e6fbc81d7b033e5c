package upstream

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func digestOf(s string) digest.Digest { return digest.FromString(s) }

func TestManifest(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{
		"plain":       nil,
		"token":       {registrytest.WithToken("", "")},
		"prefix":      {registrytest.WithPrefix("/artifactory/docker"), registrytest.WithToken("", "")},
		"no head":     {registrytest.WithoutHead()},
		"no digest":   {registrytest.WithoutDigestHeader()},
		"no length":   {registrytest.WithoutLength()},
		"wrong type":  {registrytest.WithManifestType("application/json")},
		"parameters":  {registrytest.WithManifestType(v1.MediaTypeImageIndex + "; charset=utf-8")},
		"broken type": {registrytest.WithManifestType(";;")},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, options...)
			index := r.PutIndex("acme/app", "1.0", r.PutImage("acme/app", "", []byte("x")))
			content := r.RawManifest("acme/app", index)
			u := client(t, r)
			for _, reference := range []string{"1.0", string(index)} {
				want := Descriptor{index, v1.MediaTypeImageIndex, int64(len(content))}
				d, err := u.ResolveManifest(t.Context(), "acme/app", reference)
				if err != nil || d.Descriptor != want {
					t.Errorf("resolved %s: %+v, %v", reference, d, err)
				}
				m, err := u.Manifest(t.Context(), "acme/app", reference)
				if err != nil || m.Descriptor != want || string(m.Content) != string(content) {
					t.Errorf("fetched %s: %+v, %v", reference, m, err)
				}
			}
			wantGets := 2
			if strings.HasPrefix(name, "no ") || strings.HasSuffix(name, " type") {
				wantGets = 4
			}
			if got := r.Counts(); got.ManifestHead != 2 || got.ManifestGet != wantGets {
				t.Errorf("counts %+v", got)
			}
		})
	}
}

func TestManifestSHA512(t *testing.T) {
	r := registrytest.New(t)
	content := []byte(`{"schemaVersion":2,"manifests":[]}`)
	d := digest.SHA512.FromBytes(content)
	r.PutManifestAs("a", d, v1.MediaTypeImageIndex, content, "1")
	u := client(t, r)
	if m, err := u.Manifest(t.Context(), "a", string(d)); err != nil || m.Digest != d {
		t.Errorf("by digest: %v %v", m.Digest, err)
	}
	if m, err := u.Manifest(t.Context(), "a", "1"); err != nil || m.Digest != digest.FromBytes(content) {
		t.Errorf("by tag: %v %v", m.Digest, err)
	}
}

func TestManifestTypes(t *testing.T) {
	for _, test := range []struct {
		header, content string
		want            string // "" for refused
	}{
		{dockerManifestList, `{}`, dockerManifestList},
		{ociArtifact, `{}`, ociArtifact},
		{"text/plain", `{"schemaVersion":2,"mediaType":"` + dockerManifest + `"}`, dockerManifest},
		{"", `{"schemaVersion":2,"manifests":[]}`, v1.MediaTypeImageIndex},
		{"", `{"schemaVersion":2,"config":{},"layers":[]}`, v1.MediaTypeImageManifest},
		{"", `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`, ""}, // ambiguous
		{"", `{"schemaVersion":2,"manifests":{}}`, ""},
		{"", `{"schemaVersion":2}`, ""},
		{"", `{"schemaVersion":1,"fsLayers":[]}`, ""},
		{dockerSchema1, `{}`, ""},
		{dockerSchema1Signed, `{}`, ""},
		{"text/html", `<html>`, ""},
		{"application/json", ``, ""},
	} {
		r := registrytest.New(t)
		r.PutManifest("a", test.header, []byte(test.content), "1")
		m, err := client(t, r).Manifest(t.Context(), "a", "1")
		if test.want == "" {
			e := wantKind(t, err, Invalid)
			if strings.Contains(test.content+test.header, `Version":1`) && !strings.Contains(e.Message, "schema 1") {
				t.Errorf("message %s", e.Message)
			}
			continue
		}
		if err != nil || m.MediaType != test.want {
			t.Errorf("%s %s: %s, %v", test.header, test.content, m.MediaType, err)
		}
	}
}

func TestManifestNonsense(t *testing.T) {
	content := []byte(`{"schemaVersion":2,"manifests":[]}`)
	r := registrytest.New(t)
	r.PutManifestAs("a", digestOf("other"), v1.MediaTypeImageIndex, content, "wrong")
	r.PutManifest("a", v1.MediaTypeImageIndex, []byte(`{"x":"`+strings.Repeat("x", maxManifest)+`"}`), "large")
	u := client(t, r)
	for _, reference := range []string{"wrong", string(digestOf("other")), "large"} {
		_, err := u.Manifest(t.Context(), "a", reference)
		wantKind(t, err, Invalid)
	}
	_, err := u.ResolveManifest(t.Context(), "a", "large")
	wantKind(t, err, Invalid)

	chunked := registrytest.New(t, registrytest.WithoutLength())
	chunked.PutManifest("a", v1.MediaTypeImageIndex, []byte(`{"x":"`+strings.Repeat("x", maxManifest)+`"}`), "large")
	_, err = client(t, chunked).Manifest(t.Context(), "a", "large")
	wantKind(t, err, Invalid)

	r.Reset()
	for _, bad := range [][2]string{{"A", "1"}, {"a", ""}, {"a", "../x"}, {"a/../b", "1"}, {"a", "sha256:0"}} {
		if _, err := u.Manifest(t.Context(), bad[0], bad[1]); err == nil || KindOf(err) != Other {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if got := r.Counts(); got != (registrytest.Counts{}) {
		t.Errorf("bad references were sent: %+v", got)
	}
}

func TestStatuses(t *testing.T) {
	body := func(code string) string {
		return `{"errors":[{"code":"` + code + `","message":"token-that-must-not-leak"}]}`
	}
	for _, test := range []struct {
		status int
		body   string
		kind   Kind
	}{
		{404, body("MANIFEST_UNKNOWN"), ManifestUnknown},
		{404, body("NAME_UNKNOWN"), NameUnknown},
		{404, "<html>token-that-must-not-leak", ManifestUnknown},
		{404, body("x-that-must-not-leak"), ManifestUnknown},
		{410, "", ManifestUnknown},
		{400, body("NAME_INVALID"), NameUnknown},
		{400, body("UNSUPPORTED"), Invalid},
		{403, body("DENIED"), Denied},
		{403, body("TOOMANYREQUESTS"), RateLimited},
		{401, body("UNAUTHORIZED"), Denied},
		{451, "", Denied},
		{429, "plain", RateLimited},
		{408, "", Timeout},
		{500, "<html>", Unavailable},
		{502, "", Unavailable},
		{503, body("NAME_UNKNOWN"), Unavailable},
		{504, "", Unavailable},
		{204, "", Invalid},
		{206, "x", Invalid},
		{304, "", Invalid},
		{418, "", Invalid},
	} {
		r := registrytest.New(t)
		r.Fail(registrytest.Failure{Status: test.status, Body: test.body, Header: http.Header{"Retry-After": {"9"}}})
		_, err := client(t, r).Manifest(t.Context(), "a", "1")
		e := wantKind(t, err, test.kind)
		if e.Status != test.status || e.RetryAfter != 9*time.Second && e.Status != 401 {
			t.Errorf("%d: status %d, retry after %v", test.status, e.Status, e.RetryAfter)
		}
	}
}

func TestRedirects(t *testing.T) {
	const secret = "/x?" + registrytest.Signature + "=that-must-not-leak"
	for _, test := range []struct {
		name, location string
		kind           Kind
		requests       int
	}{
		{"endless", secret, Invalid, maxRedirects + 1},
		{"no location", "", Invalid, 1},
		{"scheme", "ftp://h" + secret, Invalid, 1},
		{"unparsable", "http://h:port" + secret, Invalid, 1},
		{"nobody there", "http://127.0.0.1:1" + secret, Unavailable, 1},
		{"user", "http://u:that-must-not-leak@127.0.0.1:1" + secret, Unavailable, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			requests := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				requests++
				if test.location != "" {
					w.Header().Set("Location", test.location)
				}
				w.WriteHeader(http.StatusFound)
			}))
			t.Cleanup(server.Close)
			_, err := clientAt(t, server.URL, NewTransport(TransportConfig{AllowPrivate: true})).Manifest(t.Context(), "a", "1")
			wantKind(t, err, test.kind)
			if requests != test.requests {
				t.Errorf("%d requests", requests)
			}
		})
	}
}

// TestDowngrade: content that no digest protects does not come over plain http
// because an https registry says so; a blob may.
func TestDowngrade(t *testing.T) {
	r := registrytest.New(t, registrytest.WithTLS(), registrytest.WithBlobRedirect())
	r.PutImage("a", "1", []byte("x"))
	u := client(t, r, func(c *Config) { c.Transport = r.Transport() })
	b, err := u.Blob(t.Context(), "a", digestOf("x"), 0, -1, "")
	if err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		http.Redirect(w, req, "http://"+r.StorageHost()+"/manifest", http.StatusFound)
		return true
	})
	r.Reset()
	_, err = u.Manifest(t.Context(), "a", "1")
	wantKind(t, err, Invalid)
	if got := r.Counts(); got.Storage != 0 {
		t.Errorf("counts %+v", got)
	}
}
