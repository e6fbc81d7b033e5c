package registry

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// start serves a registry until the test ends or stop is called.
func start(t *testing.T, options Options) (r *Registry, address string, stop func()) {
	t.Helper()
	r = New(options)
	server := httptest.NewUnstartedServer(r)
	server.Config.ConnContext = r.Server("").ConnContext
	server.Start()
	t.Cleanup(server.Close)
	return r, server.URL, server.Close
}

// ask sends a GET request and returns the response and its body.
func ask(t *testing.T, address string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func TestRegistryServeRanges(t *testing.T) {
	r, address, _ := start(t, Options{Sizes: []int64{3*blockSize + 5, 100}})
	im := r.Image(0)
	whole := make([]byte, im.Size)
	if n, err := im.ReadAt(whole, 0); err != nil || digestOf(whole) != im.Digest {
		t.Fatalf("ReadAt: got %d bytes, %v, digest %s, want %s", n, err, digestOf(whole), im.Digest)
	}
	etag := `"` + im.Digest + `"`
	for _, test := range []struct {
		header   []string
		from, to int64
		status   int
	}{
		{nil, 0, im.Size, 200},
		{[]string{"Range", "bytes=0-"}, 0, im.Size, 206},
		{[]string{"Range", "bytes=7-7"}, 7, 8, 206},
		{[]string{"Range", "bytes=1048570-2097160"}, 1048570, 2097161, 206},
		{[]string{"Range", "bytes=3145730-"}, 3145730, im.Size, 206},
		{[]string{"Range", "bytes=-3"}, im.Size - 3, im.Size, 206},
		{[]string{"Range", "bytes=-99999999"}, 0, im.Size, 206},
		{[]string{"Range", "bytes=5-99999999"}, 5, im.Size, 206},
		{[]string{"Range", "bytes=5-9", "If-Range", etag}, 5, 10, 206},
		{[]string{"Range", "bytes=5-9", "If-Range", `"other"`}, 0, im.Size, 200},
		{[]string{"Range", "bytes=0-1,5-9"}, 0, im.Size, 200},
		{[]string{"Range", "lines=0-1"}, 0, im.Size, 200},
		{[]string{"Range", "bytes=99999999-"}, 0, 0, 416},
	} {
		resp, body := ask(t, address+"/v2/bench/blobs/"+im.Digest, test.header...)
		if resp.StatusCode != test.status || resp.Header.Get("ETag") != etag || !bytes.Equal(body, whole[test.from:test.to]) {
			t.Errorf("%v: got %s, ETag %s, %d bytes, want %d, %s, bytes %d to %d", test.header, resp.Status, resp.Header.Get("ETag"), len(body), test.status, etag, test.from, test.to)
		}
	}
	part := make([]byte, 10)
	if n, err := im.ReadAt(part, im.Size-4); n != 4 || err != io.EOF {
		t.Errorf("ReadAt at the end: got %d, %v, want 4, %v", n, err, io.EOF)
	}
}

func TestRegistryImages(t *testing.T) {
	r, address, _ := start(t, Options{Sizes: []int64{blockSize, 100}})
	if r.Image(0).Digest == r.Image(2).Digest || r.Image(3).Size != 100 {
		t.Errorf("got digests %s and %s, size %d, want different digests and size 100", r.Image(0).Digest, r.Image(2).Digest, r.Image(3).Size)
	}
	if _, latest := ask(t, address+"/v2/bench/manifests/latest"); !bytes.Equal(latest, r.Image(0).Manifest) {
		t.Errorf("latest: got %s, want %s", latest, r.Image(0).Manifest)
	}
	if _, third := ask(t, address+"/v2/bench/manifests/3"); !bytes.Equal(third, r.Image(3).Manifest) {
		t.Errorf("tag 3: got %s, want %s", third, r.Image(3).Manifest)
	}
	if resp, _ := ask(t, address+"/v2/bench/manifests/none"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("unknown tag: got %s, want 404", resp.Status)
	}
}

// TestRegistryRate checks that a connection keeps its rate over several responses, and
// that the bytes of all of them are counted.
func TestRegistryRate(t *testing.T) {
	const size, rate = 2 * blockSize, 20 << 20
	r, address, stop := start(t, Options{Sizes: []int64{size}, Rate: rate})
	blob := address + "/v2/bench/blobs/" + r.Image(0).Digest
	begin := time.Now()
	for range 2 {
		ask(t, blob)
	}
	// The last step is not followed by a delay.
	if took, least := time.Since(begin), (2*size-pacedStep)*time.Second/rate; took < least {
		t.Errorf("two responses took %s, want at least %s", took, least)
	}
	stop() // waits for the end of the responses
	if got, want := r.Stats(), (Stats{Requests: 2, Bytes: 2 * size}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
