package upstream

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// encoders compress by content coding.
var encoders = map[string]func(io.Writer) io.WriteCloser{
	"gzip":   func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	"X-Gzip": func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	"deflate": func(w io.Writer) io.WriteCloser {
		return zlib.NewWriter(w)
	},
	"deflate, as some servers understand it": func(w io.Writer) io.WriteCloser {
		encoder, err := flate.NewWriter(w, flate.BestSpeed)
		if err != nil {
			panic(err)
		}
		return encoder
	},
	"zstd": func(w io.Writer) io.WriteCloser {
		encoder, err := zstd.NewWriter(w)
		if err != nil {
			panic(err)
		}
		return encoder
	},
}

// TestRegistryCompressedJSON checks that JSON that is compressed although the request
// excludes that is decoded: tokens, manifests, lists, referrers and errors.
func TestRegistryCompressedJSON(t *testing.T) {
	for name, encode := range encoders {
		t.Run(name, func(t *testing.T) {
			coding, _, _ := strings.Cut(name, ",")
			r := registrytest.New(t, registrytest.WithToken("", ""), registrytest.WithCoding(coding, encode))
			image := r.PutImage("a", "1", []byte("content"))
			referrer := r.PutReferrer("a", image.Manifest, "application/x", []byte("about"))
			content := r.RawManifest("a", image.Manifest)
			u := client(t, r)
			for _, reference := range []string{"1", string(image.Manifest)} {
				if m, err := u.ResolveManifest(t.Context(), "a", reference); err != nil || m.Digest != image.Manifest || m.Size != int64(len(content)) {
					t.Errorf("%s: got %+v, %v, want %s with %d bytes", reference, m.Descriptor, err, image.Manifest, len(content))
				}
				if m, err := u.Manifest(t.Context(), "a", reference); err != nil || !bytes.Equal(m.Content, content) {
					t.Errorf("%s: got %d bytes, %v, want the content", reference, len(m.Content), err)
				}
			}
			if page, err := u.Tags(t.Context(), "a", nil); err != nil || !strings.Contains(string(page.Content), `"1"`) {
				t.Errorf("tags: got %s, %v, want the tag 1", page.Content, err)
			}
			if page, err := u.Referrers(t.Context(), "a", image.Manifest, ""); err != nil || !strings.Contains(string(page.Content), string(referrer)) {
				t.Errorf("referrers: got %s, %v, want %s", page.Content, err, referrer)
			}
			_, err := u.Manifest(t.Context(), "none", "1")
			wantKind(t, err, NameUnknown)
		})
	}
}

// TestRegistryCompressedJSONLimits checks that decoded JSON is limited like other
// JSON, and that damaged content is an error.
func TestRegistryCompressedJSONLimits(t *testing.T) {
	for name, encode := range encoders {
		if name == "X-Gzip" {
			continue // encoded as gzip is
		}
		coding, _, _ := strings.Cut(name, ",")
		var large bytes.Buffer
		encoder := encode(&large)
		_, _ = io.WriteString(encoder, `{"x":"`)
		_, _ = encoder.Write(bytes.Repeat([]byte("x"), MaxManifest))
		_, _ = io.WriteString(encoder, `"}`)
		_ = encoder.Close()
		for what, body := range map[string][]byte{"too large": large.Bytes(), "cut": large.Bytes()[:large.Len()/2]} {
			r := registrytest.New(t)
			r.Fail(registrytest.Failure{Status: http.StatusOK, Header: http.Header{"Content-Encoding": {coding}, "Content-Type": {dockerManifest}}, Body: string(body)})
			_, err := client(t, r).Manifest(t.Context(), "a", "1")
			if e := wantKind(t, err, Invalid); what == "too large" && !strings.Contains(e.message, "larger than 4194304 bytes") {
				t.Errorf("%s, %s: got %v, want an error about the size", name, what, err)
			}
		}
	}
}

// TestRegistryCodingThatIsNotApplied checks that JSON is read that is labelled with a
// coding that it does not have.
func TestRegistryCodingThatIsNotApplied(t *testing.T) {
	for _, coding := range []string{"gzip", "deflate", "zstd", "br", "utf-8", "aws-chunked", dockerManifest, "identity"} {
		r := registrytest.New(t)
		image := r.PutImage("a", "1", []byte("content"))
		r.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Encoding", coding)
			return false
		})
		for _, reference := range []string{"1", string(image.Manifest)} {
			if m, err := client(t, r).Manifest(t.Context(), "a", reference); err != nil || m.Digest != image.Manifest {
				t.Errorf("%s, %s: got %+v, %v, want %s", coding, reference, m.Descriptor, err, image.Manifest)
			}
		}
	}
}
