//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// signedFor is the lifetime of the URLs to which clients are redirected.
const signedFor = 10 * time.Second

// redirecting is a node that redirects pulls of large blobs to a bucket. Its log has
// the access log and the level DEBUG.
type redirecting struct {
	*node
	cluster *cluster
	bucket  *objectStore
	front   *front // of the bucket, as the node and its clients see it
	img     image  // warm, with a large layer and a small one
	token   string
}

func startRedirecting(t *testing.T) *redirecting {
	t.Helper()
	x := &redirecting{bucket: startBucket(t), cluster: newCluster(t)}
	var err error
	x.front, err = newFront(bucketAddr+":443", "https://"+x.bucket.address, lab.authority, bucketHost)
	must(t, err)
	t.Cleanup(x.front.stop)
	x.cluster.bucket = x.bucket
	x.node = x.cluster.node(t)
	x.node.bucket = strings.Replace(x.bucket.lines("redirect "+signedFor.String()), x.bucket.address, bucketHost, 1)
	x.globals += "\n\tdebug"
	x.sites = strings.Replace(x.sites, "import proxy", "log\n\timport proxy", 1)
	x.cluster.launch(t, x.node)
	x.img = lab.push.single(t, "library/redirected-to-bucket", "1", 65<<20, 1<<20)
	cranePull(t, loggedInto(t, x.proxy), x.reference("acme", x.img), x.img)
	awaitUploads(t, x.node)
	x.token = x.login(t, "alice")
	return x
}

// large returns the digest of the layer for which clients are redirected.
func (x *redirecting) large() digest.Digest { return x.img.layers[0] }

// object returns the path of the large layer at the bucket.
func (x *redirecting) object() string { return "/" + bucketName + "/" + blobObject(x.large()) }

// signedReads returns how often the bucket has sent the large layer for a signed URL, by
// its access log.
func (x *redirecting) signedReads(t *testing.T) int {
	t.Helper()
	log, err := os.ReadFile(x.bucket.accessLog())
	must(t, err)
	count := 0
	for line := range strings.Lines(string(log)) {
		_, query, _ := strings.Cut(line, " "+x.object()+"?")
		query, status, _ := strings.Cut(query, " ")
		if strings.Contains(line, " s3_GetObject ") && strings.Contains(query, "X-Amz-Signature=") && strings.HasPrefix(status, "200 ") {
			count++
		}
	}
	return count
}

// ask requests the large layer, or a range of it, and does not read the response.
func (x *redirecting) ask(t *testing.T, method, span string) answer {
	t.Helper()
	request, err := http.NewRequest(method, "https://"+x.host+blobPath("acme", shortName(x.img), x.large().String()), nil)
	must(t, err)
	request.Header.Set("Authorization", "Bearer "+x.token)
	if span != "" {
		request.Header.Set("Range", span)
	}
	got, err := lab.client().Do(request)
	must(t, err)
	_ = got.Body.Close()
	return answer{status: got.StatusCode, header: got.Header}
}

// awaitAnswer waits until the node answers a request for the large layer with a status.
func (x *redirecting) awaitAnswer(t *testing.T, status int) {
	t.Helper()
	must(t, x.ready(func() error { return x.ask(t, http.MethodGet, "").is(status) }))
}

// TestRedirectToBucket pulls a warm image with each client, and then checks what of
// that is in the log, which requests are not redirected, and that signed URLs expire.
// Then the bucket is killed.
func TestRedirectToBucket(t *testing.T) {
	x := startRedirecting(t)
	x.awaitAnswer(t, http.StatusTemporaryRedirect)
	first := x.ask(t, http.MethodGet, "").header.Get("Location")
	x.wantSigned(t, first, http.StatusPartialContent)
	for _, p := range pullers {
		t.Run(p.client, func(t *testing.T) { x.pull(t, p) })
	}
	x.ask(t, http.MethodHead, "").want(t, http.StatusOK, "")
	x.ask(t, http.MethodGet, "bytes=0-").want(t, http.StatusPartialContent, "")
	x.ask(t, http.MethodGet, "bytes=-5").want(t, http.StatusPartialContent, "")
	x.wantExpiry(t, first)
	x.wantHidden(t)
	t.Run("killed", x.killBucket)
	x.cluster.wantSound(t)
	x.cluster.wantSecretsHidden(t)
}

// pull pulls the image with a client, and compares what the node and the bucket have
// sent.
func (x *redirecting) pull(t *testing.T, p puller) {
	c := p.loggedInto(t, x.host)
	x.awaitAnswer(t, http.StatusTemporaryRedirect) // a busy bucket may be left alone for a while
	logged, reads := len(x.output()), x.signedReads(t)
	x.front.forget()
	p.pull(t, c, x.reference("acme", x.img), x.img)
	signed := 0
	for _, r := range x.front.requests() {
		switch {
		case !strings.Contains(r.query, "X-Amz-Signature="):
			continue // a request of the node
		case r.authorization != "":
			t.Errorf("%s sent a login to the bucket", p.client)
		case r.method != http.MethodGet || r.path != x.object():
			t.Errorf("%s sent %s %s to the bucket", p.client, r.method, r.path)
		}
		signed++
	}
	if signed == 0 {
		t.Errorf("%s did not ask the bucket for the large layer", p.client)
	}
	must(t, x.ready(func() error {
		if got := x.signedReads(t) - reads; got < signed { // the log is written late
			return fmt.Errorf("the access log of the bucket has %d reads with a signature, want %d", got, signed)
		}
		return nil
	}))
	must(t, x.ready(func() error { return x.sent(logged) }))
}

// access is an entry of the access log.
type access struct {
	Logger  string
	Status  int
	Size    int64
	Request struct{ Method, URI string }
}

// sent returns an error unless the node has sent all of the image but for its large
// layer, according to its log after the first logged bytes.
func (x *redirecting) sent(logged int) error {
	var bytes int64
	statuses := map[string]int{}
	for line := range strings.Lines(x.output()[logged:]) {
		var entry access
		if json.Unmarshal([]byte(line), &entry) != nil || !strings.HasPrefix(entry.Logger, "http.log.access") {
			continue
		}
		bytes += entry.Size
		if _, blob, ok := strings.Cut(entry.Request.URI, "/blobs/"); ok && entry.Request.Method == http.MethodGet {
			statuses[blob] = entry.Status
		}
	}
	for _, blob := range x.img.blobs() {
		want := http.StatusOK
		if blob == x.large().String() {
			want = http.StatusTemporaryRedirect
		}
		if statuses[blob] != want {
			return fmt.Errorf("the node answered %d for %s, want %d", statuses[blob], blob, want)
		}
	}
	if bytes > 2<<20 {
		return fmt.Errorf("the node sent %d bytes, want 2 MiB at most", bytes)
	}
	return nil
}

// wantSigned reports an error unless the bucket answers a request for a range of a signed URL
// with the status.
func (x *redirecting) wantSigned(t *testing.T, signed string, status int) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, signed, nil)
	must(t, err)
	request.Header.Set("Range", "bytes=0-9")
	if got := send(t, request); got.status != status {
		t.Errorf("the bucket answered %d for a signed URL, want %d: %s", got.status, status, got.body)
	}
}

// wantExpiry waits until a signed URL has expired and reports an error if it works.
func (x *redirecting) wantExpiry(t *testing.T, signed string) {
	t.Helper()
	to, err := url.Parse(signed)
	must(t, err)
	at, err := time.Parse("20060102T150405Z", to.Query().Get("X-Amz-Date"))
	must(t, err)
	lifetime, err := time.ParseDuration(to.Query().Get("X-Amz-Expires") + "s")
	must(t, err)
	if lifetime != signedFor {
		t.Errorf("the URL is valid for %v, want %v", lifetime, signedFor)
	}
	time.Sleep(time.Until(at.Add(lifetime + 2*time.Second)))
	x.wantSigned(t, signed, http.StatusForbidden)
}

// wantHidden reports an error if the log has a signature.
func (x *redirecting) wantHidden(t *testing.T) {
	t.Helper()
	x.says(t, "?REDACTED")
	if strings.Contains(x.output(), "X-Amz-") {
		t.Error("the log has signed URLs")
	}
}

// killBucket kills the bucket and has each client pull once the node has noticed it, at
// most a second later.
func (x *redirecting) killBucket(t *testing.T) {
	x.awaitAnswer(t, http.StatusTemporaryRedirect)
	x.front.stop()
	x.bucket.kill()
	x.awaitAnswer(t, http.StatusOK)
	for _, p := range pullers {
		t.Run(p.client, func(t *testing.T) {
			p.pull(t, p.loggedInto(t, x.host), x.reference("acme", x.img), x.img)
		})
	}
}
