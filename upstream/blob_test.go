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
		span    span
		etag    string
		want    Body
	}{
		{"whole", nil, wholeBlob, "", Body{Size: size}},
		{"from an offset", nil, span{4000, -1}, "", Body{Size: size, Offset: 4000, End: size}},
		{"the same", nil, span{4000, -1}, etag, Body{Size: size, Offset: 4000, End: size}},
		{"another", nil, span{4000, -1}, `"other"`, Body{Size: size}},
		{"weak", nil, span{4000, -1}, `W/"other"`, Body{Size: size, Offset: 4000, End: size}},
		{"no etag at all", nil, span{4000, -1}, "a\r\nb", Body{Size: size, Offset: 4000, End: size}},
		{"offset at the end", nil, span{size, -1}, etag, Body{Size: size}},
		{"offset beyond", nil, span{size + 5, -1}, "", Body{Size: size}},
		{"no ranges", []registrytest.Option{registrytest.WithoutRanges()}, span{4000, -1}, etag, Body{Size: size}},
		{"no length", []registrytest.Option{registrytest.WithoutLength()}, wholeBlob, "", Body{Size: -1}},
		{"no length, range", []registrytest.Option{registrytest.WithoutLength()}, span{4000, -1}, "", Body{Size: size, Offset: 4000, End: size}},
		{"storage", []registrytest.Option{registrytest.WithToken("", ""), registrytest.WithBlobRedirect()}, wholeBlob, "", Body{Size: size}},
		{"storage, range", []registrytest.Option{registrytest.WithToken("", ""), registrytest.WithBlobRedirect()}, span{4000, -1}, etag, Body{Size: size, Offset: 4000, End: size}},
		{"first bytes", nil, span{0, 1000}, "", Body{Size: size, End: 1000}},
		{"middle", nil, span{4000, 1000}, etag, Body{Size: size, Offset: 4000, End: 5000}},
		{"more than all", nil, span{0, 2 * size}, "", Body{Size: size, End: size}},
		{"middle of another", nil, span{4000, 1000}, `"other"`, Body{Size: size}},
		{"first bytes, no ranges", []registrytest.Option{registrytest.WithoutRanges()}, span{0, 1000}, "", Body{Size: size}},
		{"middle, no length", []registrytest.Option{registrytest.WithoutLength()}, span{4000, 1000}, "", Body{Size: size, Offset: 4000, End: 5000}},
		{"middle, storage", []registrytest.Option{registrytest.WithToken("", ""), registrytest.WithBlobRedirect()}, span{4000, 1000}, etag, Body{Size: size, Offset: 4000, End: 5000}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := registrytest.New(t, test.options...)
			r.PutBlob("a", content)
			b, err := client(t, r).Blob(t.Context(), "a", d, test.span.offset, test.span.length, test.etag)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			got, err := io.ReadAll(b)
			end := test.want.End
			if end == 0 {
				end = size
			}
			if err != nil || !bytes.Equal(got, content[test.want.Offset:end]) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if b.Size != test.want.Size || b.Offset != test.want.Offset || b.End != test.want.End || b.ETag != etag {
				t.Errorf("%+v", b)
			}
		})
	}
}

// TestBlobWithoutUse has ranges that tell nothing: the whole blob is asked for.
func TestBlobWithoutUse(t *testing.T) {
	r := registrytest.New(t)
	empty, d := r.PutBlob("a", nil), r.PutBlob("a", []byte("content"))
	u := client(t, r)
	b, err := u.Blob(t.Context(), "a", empty, 0, 1000, "")
	if err != nil || b.Size != 0 || b.Offset != 0 || b.End != 0 {
		t.Fatalf("the empty blob: %+v, %v", b, err)
	}
	_ = b.Close()
	r.Fail(registrytest.Failure{Op: registrytest.OpBlob, Status: 206, Times: 1,
		Header: http.Header{"Content-Range": {"bytes 0-3/*"}}, Body: "cont"})
	if b, err = u.Blob(t.Context(), "a", d, 0, 4, ""); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(b)
	_ = b.Close()
	if err != nil || string(got) != "content" || b.Size != 7 || b.End != 0 {
		t.Errorf("a range of unknown size: %q, %+v, %v", got, b, err)
	}
	r.Fail(registrytest.Failure{Op: registrytest.OpBlob, Status: 206, Times: 1,
		Header: http.Header{"Content-Range": {"bytes 3-4/*"}}, Body: "te"})
	_, err = u.Blob(t.Context(), "a", d, 3, 2, "")
	wantKind(t, err, Invalid)
}

func TestBlobErrors(t *testing.T) {
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
			t.Errorf("%v", err)
		}
	}

	r.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Encoding", "gzip")
		return false
	})
	_, err = u.Blob(t.Context(), "a", d, 0, -1, "")
	wantKind(t, err, Invalid)
	r.Heal()

	r.CutBlobs(3, 1)
	b, err := u.Blob(t.Context(), "a", d, 0, -1, "")
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
		_, err := u.Blob(t.Context(), "a", d, 0, -1, "")
		wantKind(t, err, kind)
	}
}

func TestBlobCancel(t *testing.T) {
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
			size, err := client(t, r).StatBlob(t.Context(), "a", d, -1)
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
	if size, err := client(t, r).StatBlob(t.Context(), "a", d, -1); err != nil || size != 7 {
		t.Errorf("a HEAD that lies: %d, %v", size, err)
	}
	unknown := registrytest.New(t, registrytest.WithoutLength())
	unknown.PutBlob("a", []byte("content"))
	if size, err := client(t, unknown).StatBlob(t.Context(), "a", d, -1); err != nil || size != -1 {
		t.Errorf("of unknown size: %d, %v", size, err)
	}
}

func TestCheckRange(t *testing.T) {
	for _, test := range []struct {
		text   string
		want   span
		length int64 // of the body
		size   int64 // 0: refused
		end    int64
	}{
		{"bytes 5-9/10", span{5, -1}, 5, 10, 10},
		{"Bytes 5-9/10", span{5, -1}, -1, 10, 10},
		{"bytes 5-9/10", span{4, -1}, 5, 0, 0},
		{"bytes 5-9/10", span{5, -1}, 4, 0, 0},
		{"bytes 5-8/10", span{5, -1}, 4, 0, 0},
		{"bytes 5-10/10", span{5, -1}, 6, 0, 0},
		{"bytes 5-9/*", span{5, -1}, 5, 0, 0},
		{"bytes */10", span{5, -1}, 5, 0, 0},
		{"bytes 5-4/5", span{5, -1}, 0, 0, 0},
		{"bytes +5-9/10", span{5, -1}, 5, 0, 0},
		{"bytes 5--9/10", span{5, -1}, 5, 0, 0},
		{"bytes 5-9/99999999999999999999", span{5, -1}, 5, 0, 0},
		{"items 5-9/10", span{5, -1}, 5, 0, 0},
		{"bytes=5-9/10", span{5, -1}, 5, 0, 0},
		{"", span{5, -1}, 5, 0, 0},
		{"bytes 5-6/10", span{5, 2}, 2, 10, 7},
		{"bytes 5-6/10", span{5, 2}, -1, 10, 7},
		{"bytes 5-9/10", span{5, 50}, 5, 10, 10},
		{"bytes 5-6/10", span{5, 3}, 2, 10, 7}, // less than was asked for
		{"bytes 5-7/10", span{5, 2}, 3, 0, 0},
		{"bytes 6-7/10", span{5, 3}, 2, 0, 0},
		{"bytes 5-6/10", span{5, 2}, 3, 0, 0},
		{"bytes 5-10/10", span{5, 6}, 6, 0, 0},
		{"bytes 0-4/*", span{0, 5}, 5, 0, 0},
	} {
		size, end, err := checkRange(test.text, test.want, test.length)
		if size != test.size || end != test.end || (err == nil) != (test.size > 0) {
			t.Errorf("%q to %v, length %d: %d, %d, %v", test.text, test.want, test.length, size, end, err)
		}
	}
}
