package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/circuit"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

// metadataTimeout limits every operation except the transfer of a blob's body.
// It is long enough for a token request, two redirects and 4 MiB over a slow
// line, and shorter than clients and CI jobs wait for a response.
const metadataTimeout = circuit.MaxTrial

// Config describes one upstream registry.
type Config struct {
	// Name is the configured name, such as "docker.io". It appears in errors
	// only.
	Name string

	// Endpoint is the registry's scheme, host, port and an optional path before
	// "/v2/". It must not have a user, query or fragment.
	Endpoint *url.URL

	// Login returns the login. If it is nil, the registry is used anonymously.
	Login auth.Source

	// RealmHosts lists hosts outside the registry's domain whose token service
	// may receive the login, as HOST or HOST:PORT. They are used over https only.
	RealmHosts []string

	// Offline makes all methods that ask the registry fail with an error of kind
	// [Offline]. They neither ask for the login nor use the transports, which may be
	// nil.
	Offline bool

	// Transport sends the requests. It is required. [dial.NewTransport] returns a
	// suitable one; the dial function of any other should be wrapped by
	// [dial.Guard].
	Transport http.RoundTripper

	// Ranges sends requests for blob ranges that have an end, which run
	// concurrently. It should not use HTTP/2, which would multiplex them over
	// one connection. If nil, Transport is used.
	Ranges http.RoundTripper

	// UserAgent is sent with every request. If empty, the header is omitted.
	UserAgent string

	// Hooks report events.
	Hooks Hooks
}

// Hooks are functions that report events. Each may be nil. They are called
// concurrently and should return quickly.
type Hooks struct {
	// Token is called after each token request, with the host of the token
	// service and the error, if any. [KindOf] returns [Credentials] for an error
	// that rejects the login, and [Withheld] if there was none to send.
	Token func(realmHost string, err error)

	// Answered is called after each HTTP request, with the status of the response,
	// or 0 without one, and the time until its header came. A call is several
	// requests if the registry redirects it or asks for a token.
	Answered func(op Operation, status int, took time.Duration)

	// Received is called with the number of bytes of each read of a body.
	Received func(n int)

	// Paused is called when an address of [Mirrors] could not answer and is not
	// asked for the given time, with its host and the error.
	Paused func(host string, pause time.Duration, err error)

	// Changed is called once for each [Change] of an address, with the state after it.
	Changed func(change Change, state State)
}

// Registry is a client for one upstream registry. It is safe for concurrent use
// and needs no closing; its transports belong to the caller.
type Registry struct {
	name      string
	endpoint  *url.URL
	login     auth.Source // nil: anonymous
	offline   bool
	realms    auth.Realms
	transport http.RoundTripper
	ranges    http.RoundTripper // nil: transport
	userAgent string
	hooks     Hooks

	challenge    atomic.Pointer[auth.Challenge] // the last one received, nil before the first
	versioned    atomic.Pointer[auth.Challenge] // the last one to a version check, nil before the first
	tokens       *auth.Tokens
	tokenFetches singleflight.Group
	probes       *memo.Cache[loginAnswer]     // what registry and token services say about the login
	postRealms   *lru.Cache[string, struct{}] // the token services that want POST

	tagHeads      *headHistory // HEAD requests for manifests by tag
	manifestHeads *headHistory // HEAD requests for manifests by digest
	blobHeads     *headHistory // HEAD requests for blobs
	rangeHistory  rangeHistory

	pause  circuit.Breaker // used by Mirrors only
	pulls  circuit.Breaker // of requests that count as pulls, used as pause is
	budget ratelimit.Meter // of pulls
	queue  ratelimit.Queue
	trials singleflight.Group // of an address that is down

	pseudonym string // in Via

	largeReads chan struct{} // semaphore for large responses that are being read
	listReads  chan struct{} // the same for lists of tags
	hugeReads  chan struct{} // the same for huge ones
	timeout    time.Duration // metadataTimeout except in tests
	now        func() time.Time
}

// New returns a client for the registry that config describes. It sends no
// request and does not ask for the login. Errors do not repeat the endpoint.
func New(config Config) (*Registry, error) {
	if err := config.check(); err != nil {
		return nil, fmt.Errorf("upstream %s: %w", config.Name, err)
	}
	base := *config.Endpoint
	if base.Path == "" {
		base.Path = "/" // JoinPath would return a relative path otherwise
	}
	return &Registry{
		name:          config.Name,
		endpoint:      base.JoinPath("v2"),
		login:         config.Login,
		offline:       config.Offline,
		realms:        auth.Realms{Registry: &base, HasLogin: config.Login != nil, Hosts: slices.Clone(config.RealmHosts)},
		transport:     config.Transport,
		ranges:        config.Ranges,
		userAgent:     config.UserAgent,
		hooks:         config.Hooks,
		tokens:        auth.NewTokens(),
		probes:        newProbes(),
		postRealms:    newPostRealms(),
		tagHeads:      newHeadHistory(),
		manifestHeads: newHeadHistory(),
		blobHeads:     newHeadHistory(),
		pseudonym:     newPseudonym(),
		largeReads:    make(chan struct{}, maxLargeReads),
		listReads:     make(chan struct{}, maxListReads),
		hugeReads:     make(chan struct{}, maxHugeReads),
		timeout:       metadataTimeout,
		now:           time.Now,
	}, nil
}

// check reports what is wrong with the configuration.
func (c *Config) check() error {
	e := c.Endpoint
	switch {
	case c.Transport == nil && !c.Offline:
		return errors.New("missing transport")
	case e == nil || e.Host == "" || (e.Scheme != "http" && e.Scheme != "https"):
		return errors.New("invalid endpoint; use an absolute http or https URL")
	case e.User != nil || e.RawQuery != "" || e.Fragment != "":
		return errors.New("invalid endpoint; it must not have a user, a query or a fragment")
	}
	for _, host := range c.RealmHosts {
		if u, err := url.Parse("https://" + host); err != nil || host == "" || u.Host != host {
			return errors.New("invalid realm host; use HOST or HOST:PORT")
		}
	}
	return nil
}

// withTimeout returns a context that ends after the registry's timeout with the
// cause timeoutError.
func (r *Registry) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, r.timeout, timeoutError(r.timeout))
}
