package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/secret"
	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
)

const (
	// metadataTimeout bounds every question but the body of a blob: long enough
	// for a token, two redirects and 4 MiB over a poor line, and shorter than
	// the patience of a client or of CI that waits for the answer.
	metadataTimeout = 30 * time.Second
	// maxManifest bounds manifests and lists, in bytes. It is what
	// distribution-spec v1.1 asks registries to accept, and what clients take.
	maxManifest = 4 << 20
)

// Config describes one upstream registry.
type Config struct {
	// Name is the name as configured, "docker.io". It is for messages only.
	Name string
	// Endpoint is the registry's scheme, host, port and an optional path
	// before "/v2/". No user, query or fragment.
	Endpoint *url.URL
	// Username and Password are the login, both or none.
	Username string
	Password Secret
	// RealmHosts are further hosts, "auth.example.net" or with ":port", whose
	// token service may be given the login. Over https only.
	RealmHosts []string
	// Transport is required. [NewTransport] makes a suitable one; a foreign
	// one should be guarded with [GuardDial].
	Transport http.RoundTripper

	// Ranges makes the connections for ranges of blobs that are bounded, since
	// others are asked for beside them; nil if Transport does. It should not
	// speak HTTP/2, which would put all of them on one connection.
	Ranges http.RoundTripper
	// UserAgent is sent with every request, if not empty.
	UserAgent string
	// Hooks are called as things happen.
	Hooks Hooks
}

// Hooks tell the owner what happens. Each may be nil; they are called from many
// goroutines and should return quickly.
type Hooks struct {
	// Request is called after each HTTP exchange, token requests and redirects
	// included.
	Request func(Exchange)
	// Token is called after each token request, with the realm's host and what
	// came of it. [KindOf] err is [Credentials] when the login was refused.
	Token func(realmHost string, err error)
}

// Exchange is one HTTP request and the head of its answer.
type Exchange struct {
	Operation string // "manifest", "blob", "tags", "referrers" or "token"
	Method    string
	Host      string // host[:port] that was asked
	Status    int    // 0 when no answer came
	Elapsed   time.Duration
	// Remaining is how many manifests the registry still gives us in the
	// current period (RateLimit-Remaining, as Docker Hub sends it), -1 if it
	// did not say.
	Remaining int
}

// Secret is the type of [Config.Password]. It is printed as stars.
type Secret = secret.String

// Registry is a client for one upstream. It is safe for concurrent use and
// needs no closing; its transport belongs to the caller.
type Registry struct {
	name       string
	endpoint   *url.URL
	basic      func() string // the login's Authorization header, "" for none; a closure, so that no verb of fmt shows it
	realmHosts []string
	transport  http.RoundTripper
	ranges     http.RoundTripper
	userAgent  string
	hooks      Hooks
	challenge  atomic.Pointer[accepted] // the registry's last usable challenge, nil before the first
	tokens     *tokenCache
	tagHeads   *headRecord   // what HEAD is worth for tags,
	heads      *headRecord   // for manifests by digest
	blobHeads  *headRecord   // and for blobs
	large      chan struct{} // has room for one more large answer that is being read
	limit      time.Duration // metadataTimeout, but for tests
	now        func() time.Time
}

// New checks the configuration and returns a client. It sends nothing. Errors
// do not repeat the endpoint or the login.
func New(config Config) (*Registry, error) {
	e := config.Endpoint
	switch {
	case config.Transport == nil:
		return nil, errors.New("upstream has no transport")
	case e == nil || e.Host == "" || (e.Scheme != "http" && e.Scheme != "https"):
		return nil, fmt.Errorf("endpoint of upstream %s is not an absolute http or https URL", config.Name)
	case e.User != nil || e.RawQuery != "" || e.Fragment != "":
		return nil, fmt.Errorf("endpoint of upstream %s has a user, a query or a fragment", config.Name)
	}
	basic, err := basicHeader(config.Username, config.Password)
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", config.Name, err)
	}
	for _, host := range config.RealmHosts {
		if u, err := url.Parse("https://" + host); err != nil || host == "" || u.Host != host {
			return nil, fmt.Errorf("upstream %s: a realm host is not a host or host:port", config.Name)
		}
	}
	base := *e
	if base.Path == "" {
		base.Path = "/" // else JoinPath makes a path that is no request's
	}
	return &Registry{
		name:       config.Name,
		endpoint:   base.JoinPath("v2"),
		basic:      func() string { return basic },
		realmHosts: append([]string(nil), config.RealmHosts...),
		transport:  config.Transport,
		ranges:     config.Ranges,
		userAgent:  config.UserAgent,
		hooks:      config.Hooks,
		tokens:     newTokenCache(),
		tagHeads:   newHeadRecord(),
		heads:      newHeadRecord(),
		blobHeads:  newHeadRecord(),
		large:      make(chan struct{}, largeAnswers),
		limit:      metadataTimeout,
		now:        time.Now,
	}, nil
}

// call is one question to the registry.
type call struct {
	operation  string // as in Exchange
	method     string
	repository string
	path       string // below the repository
	query      url.Values
	header     http.Header
	what       string // for messages: "manifest 3.20"
	unknown    Kind   // what a 404 means here
	verified   bool   // the content is checked against a digest, so plain http after a redirect is tolerable for a GET
	bounded    bool   // a range with an end, for which there may be connections of their own
}

// newCall checks the repository, which goes into a URL. A bad one is the
// caller's mistake and not an [*Error].
func newCall(operation, repository string) (*call, error) {
	if !reference.ValidRepository(repository) {
		return nil, errors.New("repository name is not valid")
	}
	return &call{operation: operation, method: http.MethodGet, repository: repository, header: http.Header{}}, nil
}

// with returns a copy of the call with another method.
func (c *call) with(method string) *call {
	d := *c
	d.method = method
	return &d
}

func (r *Registry) url(c *call) *url.URL {
	u := r.endpoint.JoinPath(c.repository, c.path)
	u.RawQuery = c.query.Encode()
	return u
}

// bounded returns the context under which metadata is fetched.
func (r *Registry) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, r.limit, errTooSlow)
}

// digestCall makes the call for something named by a digest.
func digestCall(operation, repository, directory string, d digest.Digest) (*call, error) {
	if _, err := reference.ParseDigest(string(d)); err != nil {
		return nil, err
	}
	c, err := newCall(operation, repository)
	if err != nil {
		return nil, err
	}
	c.path = directory + "/" + string(d)
	c.what = strings.TrimSuffix(directory, "s") + " " + string(d)
	return c, nil
}
