// Package registrytest provides a container registry in memory for tests. It is
// pull-only and strict, and has faults that can be set while it runs.
//
// [New] starts a registry on the loopback interface that ends with the test. An
// [Option] selects its features, such as a token service, a redirect of blobs to
// another server, or missing support for HEAD or ranges. Methods such as PutImage
// store content, which belongs to one repository and is not found in any other.
// Methods such as Fail and CutBlobs set faults until Heal is called. Counts returns
// the number of requests of each kind.
package registrytest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// Registry is a running registry. Its methods are safe for concurrent use.
type Registry struct {
	t       testing.TB
	options options
	server  *httptest.Server
	storage *httptest.Server // serves redirected blobs; nil without WithBlobRedirect
	faults  faults
	tokens  tokens

	mu     sync.Mutex
	repos  map[string]*repository
	counts Counts
	ranges []string
	pulls  int // since the start or the last ResetPulls
}

type repository struct {
	blobs     map[digest.Digest][]byte
	manifests map[digest.Digest]manifest
	tags      map[string]digest.Digest
	offers    map[string]digest.Digest // see Offer
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
	coding        string
	encode        func(io.Writer) io.WriteCloser // nil for no coding
	pageSize      int
	maxPage       int
	cursors       bool
	tagsAsDigests bool
	gateway       *Registry
	scopePrefix   string
	hidden        int
	oauth         bool
	getStatus     int
	pullLimit     int
}

// Option selects a feature of a registry.
type Option func(*options)

// WithToken makes the registry require a bearer token. Its token service at /token
// issues tokens for one repository to the given login, or to every client if user
// is empty.
func WithToken(user, pass string) Option {
	return func(o *options) { o.auth, o.user, o.pass = "bearer", user, pass }
}

// WithBasic makes the registry require the given login with Basic authentication.
func WithBasic(user, pass string) Option {
	return func(o *options) { o.auth, o.user, o.pass = "basic", user, pass }
}

// WithRealm sets the realm in the challenges of WithToken. The default is /token.
func WithRealm(realm string) Option { return func(o *options) { o.realm = realm } }

// WithOAuth makes the token service of WithToken accept POST with the grants
// password and refresh_token, for which the password is the refresh token. It
// answers GET with the given status, or with tokens if that is 0.
func WithOAuth(getStatus int) Option {
	return func(o *options) { o.oauth, o.getStatus = true, getStatus }
}

// WithHidden makes the registry respond to requests without authorization with the
// given status in place of a challenge, except below /v2/ itself.
func WithHidden(status int) Option { return func(o *options) { o.hidden = status } }

// WithScopePrefix makes the registry of WithToken know a repository under
// prefix + its name in the scopes of challenges and tokens.
func WithScopePrefix(prefix string) Option { return func(o *options) { o.scopePrefix = prefix } }

// WithGateway redirects authorized requests for manifests, blobs and lists to the
// same path of another registry, with 307.
func WithGateway(to *Registry) Option { return func(o *options) { o.gateway = to } }

// WithPrefix serves the registry below prefix + "/v2/".
func WithPrefix(prefix string) Option {
	return func(o *options) { o.prefix = strings.TrimSuffix(prefix, "/") }
}

// WithTLS makes the registry use https. [Registry.Transport] trusts its certificate.
func WithTLS() Option { return func(o *options) { o.tls = true } }

// WithBlobRedirect redirects requests for blobs to another server with 307 and a
// signature in the query. The test fails if that server receives Authorization, a
// Referer or a cookie.
func WithBlobRedirect() Option { return func(o *options) { o.redirect = true } }

// WithBlobRedirectGetOnly is WithBlobRedirect with a signature that is valid for
// GET only, so that the other server responds to HEAD with 403.
func WithBlobRedirectGetOnly() Option {
	return func(o *options) { o.redirect, o.signedGetOnly = true, true }
}

// WithoutHead makes the registry respond to every HEAD with 405.
func WithoutHead() Option { return func(o *options) { o.noHead = true } }

// WithoutRanges makes the registry ignore Range.
func WithoutRanges() Option { return func(o *options) { o.noRanges = true } }

// WithoutDigestHeader omits Docker-Content-Digest.
func WithoutDigestHeader() Option { return func(o *options) { o.noDigest = true } }

// WithoutLength omits the Content-Length of manifests and blobs.
func WithoutLength() Option { return func(o *options) { o.noLength = true } }

// WithoutReferrers disables the referrers API.
func WithoutReferrers() Option { return func(o *options) { o.noReferrers = true } }

// WithManifestType sets the Content-Type of every manifest.
func WithManifestType(mediaType string) Option {
	return func(o *options) { o.manifestType = mediaType }
}

// WithPageSize splits lists of tags and referrers into pages of at most n.
func WithPageSize(n int) Option { return func(o *options) { o.pageSize = n } }

// WithMaxPage makes the registry refuse requests for more than n tags with 400 and
// PAGINATION_NUMBER_INVALID.
func WithMaxPage(n int) Option { return func(o *options) { o.maxPage = n } }

// WithCursors makes the registry name the next page of tags by a parameter of its own.
// The test fails if a request for tags has other parameters than that and n.
func WithCursors() Option { return func(o *options) { o.cursors = true } }

// WithTagsAsDigests makes the registry read the tag ALGORITHM-ENCODED as a digest.
func WithTagsAsDigests() Option { return func(o *options) { o.tagsAsDigests = true } }

// WithPullLimit limits the GETs of manifests to n, as Docker Hub does: each response to a
// request for a manifest has the headers of the limit, and HEAD does not count. Beyond the
// limit, the response is 429 with an error in JSON and Retry-After. [Registry.ResetPulls] begins another
// window.
func WithPullLimit(n int) Option { return func(o *options) { o.pullLimit = n } }

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
	handler := http.HandlerFunc(r.serve)
	if r.options.encode != nil {
		handler = r.serveEncoded
	}
	r.server = httptest.NewUnstartedServer(handler)
	if r.options.tls {
		r.server.EnableHTTP2 = true
		r.server.StartTLS()
	} else {
		r.server.Start()
	}
	t.Cleanup(r.Close)
	return r
}

// Close removes all faults and stops the servers. Connections to them are refused
// afterwards.
func (r *Registry) Close() {
	r.Heal()
	for _, s := range []*httptest.Server{r.server, r.storage} {
		if s != nil {
			s.CloseClientConnections()
			s.Close()
		}
	}
}

// URL returns the registry's address with the prefix, but without "/v2/".
func (r *Registry) URL() string { return r.server.URL + r.options.prefix }

// Endpoint returns the parsed URL of the registry.
func (r *Registry) Endpoint() *url.URL {
	u, err := url.Parse(r.URL())
	if err != nil {
		panic(err)
	}
	return u
}

// Host returns the registry's host:port.
func (r *Registry) Host() string { return r.server.Listener.Addr().String() }

// StorageHost returns the host:port to which blobs are redirected.
func (r *Registry) StorageHost() string { return r.storage.Listener.Addr().String() }

// Transport returns a transport that trusts the registry's certificate. Its
// connections are closed with the registry.
func (r *Registry) Transport() http.RoundTripper { return r.server.Client().Transport }

// Counts is the number of requests since the start or the last Reset. A request
// that was answered with a challenge counts as Challenged only. A request that a
// fault answered counts as its own kind.
type Counts struct {
	Ping, Token               int
	ManifestHead, ManifestGet int
	BlobHead, BlobGet         int
	Tags, Referrers           int
	Storage                   int // requests to the server to which blobs are redirected
	Challenged                int
	Other                     int
	BlobBytes                 int64 // bytes of blobs written, by either server
}

// Counts returns the current counts.
func (r *Registry) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

// Reset sets the counts to zero and clears the ranges.
func (r *Registry) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts, r.ranges = Counts{}, nil
}

// Ranges returns the Range headers of the GET requests for blobs in their order, ""
// for a request without one.
func (r *Registry) Ranges() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ranges)
}

func (r *Registry) recordRange(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ranges = append(r.ranges, text)
}

func (r *Registry) count(f func(*Counts)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.counts)
}
