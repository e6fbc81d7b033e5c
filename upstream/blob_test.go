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

func TestBlob(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 1000)
	d := digest.FromBytes(content)
	etag := `"` + string(d) + `"`
	size := int64(len(content))
	for _, test := range []struct {
		name    string
		options []registrytest.Option
		offset  int64
		etag    string
		want    Body
	}{
		{"whole", nil, 0, "", Body{Size: size}},
		{"from an offset", nil, 4000, "", Body{Size: size, Offset: 4000}},
		{"the same", nil, 4000, etag, Body{Size: size, Offset: 4000}},
		{"another", nil, 4000, `"other"`, Body{Size: size}},
		{"weak", nil, 4000, `W/"other"`, Body{Size: size, Offset: 4000}},
		{"no etag at all", nil, 4000, "a\r\nb", Body{Size: size, Offset: 4000}},
		{"offset at the end", nil, size, etag, Body{Size: size}},
		{"offset beyond", nil, size + 5, "", Body{Size: size}},
		{"no ranges", []registrytest.Option{registrytest.WithoutRanges()}, 4000, etag, Body{Size: size}},
		{"no length", []registrytest.Option{registrytest.WithoutLength()}, 0, "", Body{Size: -1}},
		{"no length, range", []registrytest.Option{registrytest.WithoutLength()}, 4000, "", Body{Size: size, Offset: 4000}},
		{"storage", []registrytest.Option{registrytest.WithToken("", ""), registrytest.WithBlobRedirect()}, 0, "", Body{Size: size}},
		{"storage, range", []registrytest.Option{registrytest.WithToken("", ""), registrytest.WithBlobRedirect()}, 4000, etag, Body{Size: size, Offset: 4000}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := registrytest.New(t, test.options...)
			r.PutBlob("a", content)
			b, err := client(t, r).Blob(t.Context(), "a", d, test.offset, test.etag)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			got, err := io.ReadAll(b)
			if err != nil || !bytes.Equal(got, content[test.want.Offset:]) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if b.Size != test.want.Size || b.Offset != test.want.Offset || b.ETag != etag {
				t.Errorf("%+v", b)
			}
		})
	}
}

func TestBlobErrors(t *testing.T) {
	r := registrytest.New(t)
	d := r.PutBlob("a", []byte("content"))
	u := client(t, r)
	_, err := u.Blob(t.Context(), "a", digestOf("other"), 0, "")
	wantKind(t, err, BlobUnknown)
	_, err = u.StatBlob(t.Context(), "a", digestOf("other"))
	wantKind(t, err, BlobUnknown)
	_, err = u.Blob(t.Context(), "b", d, 0, "")
	wantKind(t, err, NameUnknown)
	for _, bad := range []func() error{
		func() error { _, err := u.Blob(t.Context(), "a", d, -1, ""); return err },
		func() error { _, err := u.Blob(t.Context(), "a", "sha256:x", 0, ""); return err },
		func() error { _, err := u.Blob(t.Context(), "A", d, 0, ""); return err },
	} {
		if err := bad(); err == nil || KindOf(err) != Other {
			t.Errorf("%v", err)
		}
	}

	r.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Encoding", "gzip")
		return false
	})
	_, err = u.Blob(t.Context(), "a", d, 0, "")
	wantKind(t, err, Invalid)
	r.Heal()

	r.CutBlobs(3, 1)
	b, err := u.Blob(t.Context(), "a", d, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(b)
	_ = b.Close()
	wantKind(t, err, Unavailable)
	if string(got) != "con" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestBlobStorageErrors(t *testing.T) {
	r := registrytest.New(t, registrytest.WithBlobRedirect())
	d := r.PutBlob("a", []byte("content"))
	u := client(t, r)
	for status, kind := range map[int]Kind{401: Unavailable, 403: Unavailable, 404: BlobUnknown, 429: RateLimited, 503: Unavailable} {
		r.Fail(registrytest.Failure{Op: registrytest.OpStorage, Status: status, Times: 1,
			Header: http.Header{"Www-Authenticate": {`Basic realm="give me the login"`}}})
		_, err := u.Blob(t.Context(), "a", d, 0, "")
		wantKind(t, err, kind)
	}
}

func TestBlobCancel(t *testing.T) {
	r := registrytest.New(t)
	d := r.PutBlob("a", []byte("content"))
	r.StallBlobs(3)
	ctx, cancel := context.WithCancel(t.Context())
	b, err := client(t, r).Blob(ctx, "a", d, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := io.ReadFull(b, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) || KindOf(err) != Other {
		t.Errorf("%v", err)
	}
}

func TestStatBlob(t *testing.T) {
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
			size, err := client(t, r).StatBlob(t.Context(), "a", d)
			if err != nil || size != int64(len(test.content)) {
				t.Errorf("%d, %v", size, err)
			}
			if got := r.Counts(); got.BlobHead != 1 || got.BlobGet != test.gets {
				t.Errorf("counts %+v", got)
			}
		})
	}
	r := registrytest.New(t)
	d := r.PutBlob("a", []byte("content"))
	r.Fail(registrytest.Failure{Method: http.MethodHead, Status: 200, Header: http.Header{"Content-Length": {"0"}}})
	if size, err := client(t, r).StatBlob(t.Context(), "a", d); err != nil || size != 7 {
		t.Errorf("a HEAD that lies: %d, %v", size, err)
	}
	unknown := registrytest.New(t, registrytest.WithoutLength())
	unknown.PutBlob("a", []byte("content"))
	_, err := client(t, unknown).StatBlob(t.Context(), "a", d)
	wantKind(t, err, Invalid)
}

func TestCheckRange(t *testing.T) {
	for _, test := range []struct {
		text           string
		offset, length int64
		size           int64 // 0: refused
	}{
		{"bytes 5-9/10", 5, 5, 10},
		{"Bytes 5-9/10", 5, -1, 10},
		{"bytes 5-9/10", 4, 5, 0},
		{"bytes 5-9/10", 5, 4, 0},
		{"bytes 5-8/10", 5, 4, 0},
		{"bytes 5-10/10", 5, 6, 0},
		{"bytes 5-9/*", 5, 5, 0},
		{"bytes */10", 5, 5, 0},
		{"bytes 5-4/5", 5, 0, 0},
		{"bytes +5-9/10", 5, 5, 0},
		{"bytes 5--9/10", 5, 5, 0},
		{"bytes 5-9/99999999999999999999", 5, 5, 0},
		{"items 5-9/10", 5, 5, 0},
		{"bytes=5-9/10", 5, 5, 0},
		{"", 5, 5, 0},
	} {
		size, err := checkRange(test.text, test.offset, test.length)
		if size != test.size || (err == nil) != (test.size > 0) {
			t.Errorf("%q from %d, length %d: %d, %v", test.text, test.offset, test.length, size, err)
		}
	}
}
