// Package registrytest is a container registry in memory, for tests: pull only,
// strict, and with faults that can be switched on while it runs.
//
// Content belongs to the repository that it was put to and to no other. What
// the registry was asked is counted, and what it can do is set by options: a
// token service, blobs behind a redirect to other storage, no HEAD, no ranges.
// Everything listens on the loopback and ends with the test.
package registrytest

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// Registry is a running registry. Its methods may be called at any time, from
// any goroutine.
type Registry struct {
	t       testing.TB
	options options
	server  *httptest.Server
	storage *httptest.Server // blobs behind a redirect, nil without that option
	faults  faults
	tokens  tokens

	mu     sync.Mutex
	repos  map[string]*repository
	counts Counts
	ranges []string
}

type repository struct {
	blobs     map[digest.Digest][]byte
	manifests map[digest.Digest]manifest
	tags      map[string]digest.Digest
}

type manifest struct {
	mediaType string
	content   []byte
}

type options struct {
	auth          string // "", "basic" or "bearer"
	user, pass    string
	realm         string
	prefix        string
	tls           bool
	redirect      bool
	signedGetOnly bool
	noHead        bool
	noRanges      bool
	noDigest      bool
	noLength      bool
	noReferrers   bool
	manifestType  string
	pageSize      int
}

// Option changes what a registry can do.
type Option func(*options)

// WithToken makes the registry ask for a bearer token, which its own token
// service at /token hands out to this login, or to everyone if user is empty.
// A token is good for one repository.
func WithToken(user, pass string) Option {
	return func(o *options) { o.auth, o.user, o.pass = "bearer", user, pass }
}

// WithBasic makes the registry ask for this login itself.
func WithBasic(user, pass string) Option {
	return func(o *options) { o.auth, o.user, o.pass = "basic", user, pass }
}

// WithRealm puts another realm than /token into the challenges of WithToken.
func WithRealm(realm string) Option { return func(o *options) { o.realm = realm } }

// WithPrefix puts the registry below a path: prefix + "/v2/".
func WithPrefix(prefix string) Option {
	return func(o *options) { o.prefix = strings.TrimSuffix(prefix, "/") }
}

// WithTLS makes the registry speak https; see [Registry.Transport].
func WithTLS() Option { return func(o *options) { o.tls = true } }

// WithBlobRedirect answers blobs with a 307 to another server, with a signature
// in the query. The test fails if that server is ever sent Authorization or a
// Referer.
func WithBlobRedirect() Option { return func(o *options) { o.redirect = true } }

// WithBlobRedirectGetOnly is WithBlobRedirect where the signature is for GET, so
// that the other server refuses HEAD with 403.
func WithBlobRedirectGetOnly() Option {
	return func(o *options) { o.redirect, o.signedGetOnly = true, true }
}

// WithoutHead answers every HEAD with 405.
func WithoutHead() Option { return func(o *options) { o.noHead = true } }

// WithoutRanges ignores Range.
func WithoutRanges() Option { return func(o *options) { o.noRanges = true } }

// WithoutDigestHeader leaves out Docker-Content-Digest.
func WithoutDigestHeader() Option { return func(o *options) { o.noDigest = true } }

// WithoutLength leaves out Content-Length on manifests and blobs.
func WithoutLength() Option { return func(o *options) { o.noLength = true } }

// WithoutReferrers has no referrers API.
func WithoutReferrers() Option { return func(o *options) { o.noReferrers = true } }

// WithManifestType sends this Content-Type with every manifest.
func WithManifestType(mediaType string) Option {
	return func(o *options) { o.manifestType = mediaType }
}

// WithPageSize makes referrers come in pages of n.
func WithPageSize(n int) Option { return func(o *options) { o.pageSize = n } }

// New starts a registry that ends with the test.
func New(t testing.TB, opts ...Option) *Registry {
	t.Helper()
	r := &Registry{t: t, repos: map[string]*repository{}}
	for _, opt := range opts {
		opt(&r.options)
	}
	r.tokens.issued = map[string]issued{}
	if r.options.redirect {
		r.storage = httptest.NewServer(http.HandlerFunc(r.serveStorage))
	}
	r.server = httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	if r.options.tls {
		r.server.EnableHTTP2 = true
		r.server.StartTLS()
	} else {
		r.server.Start()
	}
	t.Cleanup(r.Close)
	return r
}

// Close ends the servers, and first whatever a fault holds up in them: from then
// on nobody listens there.
func (r *Registry) Close() {
	r.Heal()
	for _, s := range []*httptest.Server{r.server, r.storage} {
		if s != nil {
			s.CloseClientConnections()
			s.Close()
		}
	}
}

// URL returns the registry's address, with the prefix and without "/v2/".
func (r *Registry) URL() string { return r.server.URL + r.options.prefix }

// Endpoint returns URL, parsed.
func (r *Registry) Endpoint() *url.URL {
	u, err := url.Parse(r.URL())
	if err != nil {
		panic(err)
	}
	return u
}

// Host returns the registry's host:port.
func (r *Registry) Host() string { return r.server.Listener.Addr().String() }

// StorageHost returns the host:port that blobs are redirected to.
func (r *Registry) StorageHost() string { return r.storage.Listener.Addr().String() }

// Transport returns a transport that trusts the registry's certificate and ends
// with it.
func (r *Registry) Transport() http.RoundTripper { return r.server.Client().Transport }

// Counts is what a registry was asked since it started or was reset. Requests
// that were turned away with a challenge count as Challenged and nowhere else;
// those that a fault answered count as what they asked for.
type Counts struct {
	Ping, Token               int
	ManifestHead, ManifestGet int
	BlobHead, BlobGet         int
	Tags, Referrers           int
	Storage                   int // requests to the server that blobs are redirected to
	Challenged                int
	Other                     int
	BlobBytes                 int64 // bytes of blobs written, by either server
}

// Counts returns a snapshot.
func (r *Registry) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

// Reset sets all counters to zero, and forgets the ranges.
func (r *Registry) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts, r.ranges = Counts{}, nil
}

// Ranges returns what GET requests for blobs had as Range, in their order; ""
// stands for none.
func (r *Registry) Ranges() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ranges)
}

func (r *Registry) noteRange(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ranges = append(r.ranges, text)
}

func (r *Registry) count(f func(*Counts)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.counts)
}
