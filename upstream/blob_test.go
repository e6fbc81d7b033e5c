package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func TestRegistryBlob(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 1000)
	d := digest.FromBytes(content)
	etag := `"` + string(d) + `"`
	size := int64(len(content))
	for _, test := range []struct {
		name    string
		options []registrytest.Option
		ask     byteRange
		etag    string
		body    Body
	}{
		{"whole", nil, wholeBlob, "", Body{Size: size}},
		{"from an offset", nil, byteRange{4000, -1}, "", Body{Size: size, Offset: 4000, End: size}},
		{"matching etag", nil, byteRange{4000, -1}, etag, Body{Size: size, Offset: 4000, End: size}},
		{"other etag", nil, byteRange{4000, -1}, `"other"`, Body{Size: size}},
		{"weak etag", nil, byteRange{4000, -1}, `W/"other"`, Body{Size: size, Offset: 4000, End: size}},
		{"invalid etag", nil, byteRange{4000, -1}, "a\r\nb", Body{Size: size, Offset: 4000, End: size}},
		{"offset at the end", nil, byteRange{size, -1}, etag, Body{Size: size}},
		{"offset beyond", nil, byteRange{size + 5, -1}, "", Body{Size: size}},
		{"no ranges", []registrytest.Option{registrytest.WithoutRanges()}, byteRange{4000, -1}, etag, Body{Size: size}},
		{"no length", []registrytest.Option{registrytest.WithoutLength()}, wholeBlob, "", Body{Size: -1}},
		{"no length, range", []registrytest.Option{registrytest.WithoutLength()}, byteRange{4000, -1}, "", Body{Size: size, Offset: 4000, End: size}},
		{"storage", []registrytest.Option{registrytest.WithToken("", ""), registrytest.WithBlobRedirect()}, wholeBlob, "", Body{Size: size}},
		{"storage, range", []registrytest.Option{registrytest.WithToken("", ""), registrytest.WithBlobRedirect()}, byteRange{4000, -1}, etag, Body{Size: size, Offset: 4000, End: size}},
		{"first bytes", nil, byteRange{0, 1000}, "", Body{Size: size, End: 1000}},
		{"middle", nil, byteRange{4000, 1000}, etag, Body{Size: size, Offset: 4000, End: 5000}},
		{"more than all", nil, byteRange{0, 2 * size}, "", Body{Size: size, End: size}},
		{"middle, other etag", nil, byteRange{4000, 1000}, `"other"`, Body{Size: size}},
		{"first bytes, no ranges", []registrytest.Option{registrytest.WithoutRanges()}, byteRange{0, 1000}, "", Body{Size: size}},
		{"middle, no length", []registrytest.Option{registrytest.WithoutLength()}, byteRange{4000, 1000}, "", Body{Size: size, Offset: 4000, End: 5000}},
		{"middle, storage", []registrytest.Option{registrytest.WithToken("", ""), registrytest.WithBlobRedirect()}, byteRange{4000, 1000}, etag, Body{Size: size, Offset: 4000, End: 5000}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := registrytest.New(t, test.options...)
			r.PutBlob("a", content)
			b, err := client(t, r).Blob(t.Context(), "a", d, test.ask.offset, test.ask.length, test.etag)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			got, err := io.ReadAll(b)
			end := test.body.End
			if end == 0 {
				end = size
			}
			if err != nil || !bytes.Equal(got, content[test.body.Offset:end]) {
				t.Errorf("got %d bytes, %v, want bytes %d to %d", len(got), err, test.body.Offset, end)
			}
			if b.Size != test.body.Size || b.Offset != test.body.Offset || b.End != test.body.End || b.ETag != etag {
				t.Errorf("got %+v, want %+v with ETag %s", b, test.body, etag)
			}
		})
	}
}

// TestRegistryBlobUnusableRange checks that the whole blob is requested if the
// response to a range cannot be used.
func TestRegistryBlobUnusableRange(t *testing.T) {
	r := registrytest.New(t)
	empty, d := r.PutBlob("a", nil), r.PutBlob("a", []byte("content"))
	u := client(t, r)
	b, err := u.Blob(t.Context(), "a", empty, 0, 1000, "")
	if err != nil || b.Size != 0 || b.Offset != 0 || b.End != 0 {
		t.Fatalf("range of an empty blob: got %+v, %v, want a whole blob of 0 bytes", b, err)
	}
	_ = b.Close()
	for _, test := range []struct {
		ask          byteRange
		contentRange string
	}{
		{byteRange{0, 4}, "bytes 0-3/*"},
		{byteRange{3, 2}, "bytes 3-4/*"},
		{byteRange{3, -1}, "bytes 0-3/7"},
		{byteRange{3, -1}, ""},
	} {
		r.Fail(registrytest.Failure{Op: registrytest.OpBlob, Status: 206, Times: 1,
			Header: http.Header{"Content-Range": {test.contentRange}}, Body: "cont"})
		b, err := client(t, r).Blob(t.Context(), "a", d, test.ask.offset, test.ask.length, "")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(b)
		_ = b.Close()
		if err != nil || string(got) != "content" || b.Size != 7 || b.Offset != 0 || b.End != 0 {
			t.Errorf("Content-Range %q: got %q, %+v, %v, want the whole blob", test.contentRange, got, b, err)
		}
	}
}

func TestRegistryBlobErrors(t *testing.T) {
	r := registrytest.New(t)
	d := r.PutBlob("a", []byte("content"))
	u := client(t, r)
	_, err := u.Blob(t.Context(), "a", digestOf("other"), 0, -1, "")
	wantKind(t, err, BlobUnknown)
	_, err = u.StatBlob(t.Context(), "a", digestOf("other"), -1)
	wantKind(t, err, BlobUnknown)
	_, err = u.Blob(t.Context(), "b", d, 0, -1, "")
	wantKind(t, err, NameUnknown)
	for _, bad := range []func() error{
		func() error { _, err := u.Blob(t.Context(), "a", d, -1, -1, ""); return err },
		func() error { _, err := u.Blob(t.Context(), "a", d, 0, 0, ""); return err },
		func() error { _, err := u.Blob(t.Context(), "a", d, 0, -2, ""); return err },
		func() error { _, err := u.Blob(t.Context(), "a", "sha256:x", 0, -1, ""); return err },
		func() error { _, err := u.Blob(t.Context(), "A", d, 0, -1, ""); return err },
	} {
		if err := bad(); err == nil || KindOf(err) != Other {
			t.Errorf("invalid arguments: got %v, want an error of kind other", err)
		}
	}

	r.CutBlobs(3, 1)
	b, err := u.Blob(t.Context(), "a", d, 0, -1, "")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(b)
	_ = b.Close()
	wantKind(t, err, Unavailable)
	if string(got) != "con" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("interrupted transfer: got %q, %v, want %q, %v", got, err, "con", io.ErrUnexpectedEOF)
	}
}

// TestRegistryBlobLabelledEncoding checks that a Content-Encoding, which may be no
// coding at all, does not change the bytes of a blob or of a range, nor its size.
func TestRegistryBlobLabelledEncoding(t *testing.T) {
	r := registrytest.New(t)
	content := []byte("content")
	d := r.PutBlob("a", content)
	for _, label := range []string{"gzip", "x-gzip", "deflate", "zstd", "application/octet-stream", "aws-chunked", "utf-8"} {
		r.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Encoding", label)
			return false
		})
		for _, ask := range []byteRange{wholeBlob, {0, 4}, {3, -1}} {
			b, err := client(t, r).Blob(t.Context(), "a", d, ask.offset, ask.length, "")
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(b)
			_ = b.Close()
			want := content[ask.offset:]
			if ask.length > 0 {
				want = want[:ask.length]
			}
			if err != nil || !bytes.Equal(got, want) || b.Size != 7 && b.Size != -1 {
				t.Errorf("Content-Encoding %s, range %v: got %q of %d, %v, want %q of 7", label, ask, got, b.Size, err, want)
			}
		}
	}
}

func TestRegistryBlobStorageErrors(t *testing.T) {
	r := registrytest.New(t, registrytest.WithBlobRedirect())
	d := r.PutBlob("a", []byte("content"))
	u := client(t, r)
	for status, kind := range map[int]Kind{401: Unavailable, 403: Unavailable, 404: BlobUnknown, 429: RateLimited, 503: Unavailable} {
		r.Fail(registrytest.Failure{Op: registrytest.OpStorage, Status: status, Times: 1,
			Header: http.Header{"Www-Authenticate": {`Basic realm="give me the login"`}}})
		_, err := u.Blob(t.Context(), "a", d, 0, -1, "")
		wantKind(t, err, kind)
	}
}

func TestRegistryBlobCanceled(t *testing.T) {
	r := registrytest.New(t)
	d := r.PutBlob("a", []byte("content"))
	r.StallBlobs(3)
	ctx, cancel := context.WithCancel(t.Context())
	b, err := client(t, r).Blob(ctx, "a", d, 0, -1, "")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := io.ReadFull(b, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) || KindOf(err) != Other {
		t.Errorf("got %v, want %v of kind other", err, context.Canceled)
	}
}

func TestRegistryStatBlob(t *testing.T) {
	for _, test := range []struct {
		name    string
		options []registrytest.Option
		content string
		gets    int
	}{
		{"head", nil, "content", 0},
		{"token", []registrytest.Option{registrytest.WithToken("", "")}, "content", 0},
		{"no head", []registrytest.Option{registrytest.WithoutHead()}, "content", 1},
		{"storage", []registrytest.Option{registrytest.WithBlobRedirect()}, "content", 0},
		{"storage refuses head", []registrytest.Option{registrytest.WithBlobRedirectGetOnly()}, "content", 1},
		{"empty", nil, "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := registrytest.New(t, test.options...)
			d := r.PutBlob("a", []byte(test.content))
			size, err := client(t, r).StatBlob(t.Context(), "a", d, -1)
			if err != nil || size != int64(len(test.content)) {
				t.Errorf("got %d, %v, want %d", size, err, len(test.content))
			}
			if got := r.Counts(); got.BlobHead != 1 || got.BlobGet != test.gets {
				t.Errorf("got requests %+v, want 1 HEAD and %d GETs", got, test.gets)
			}
		})
	}
	r := registrytest.New(t)
	d := r.PutBlob("a", []byte("content"))
	r.Fail(registrytest.Failure{Method: http.MethodHead, Status: 200, Header: http.Header{"Content-Length": {"0"}}})
	if size, err := client(t, r).StatBlob(t.Context(), "a", d, -1); err != nil || size != 7 {
		t.Errorf("HEAD with a wrong length: got %d, %v, want 7", size, err)
	}
	unknown := registrytest.New(t, registrytest.WithoutLength())
	unknown.PutBlob("a", []byte("content"))
	if size, err := client(t, unknown).StatBlob(t.Context(), "a", d, -1); err != nil || size != -1 {
		t.Errorf("response without a length: got %d, %v, want -1", size, err)
	}
}
