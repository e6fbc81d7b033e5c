package upstream

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
)

// call describes one operation on the registry or its token service.
type call struct {
	method     string
	repository string
	path       string // below the repository
	query      url.Values
	rawQuery   string // in place of query, unless it is empty
	header     http.Header
	object     string // the requested object for error texts, such as "manifest 3.20"
	notFound   Kind   // the kind of a 404 error

	// verified is set if the content is checked against a digest. A GET may
	// then follow a redirect to plain http.
	verified bool

	// tokenService is set for a request to a token service, whose redirects get
	// no token of a registry.
	tokenService bool

	// form is the body of a POST, which contains a login. Such a request follows
	// no redirect.
	form url.Values

	// boundedRange is set for a blob range that has an end. It is sent through
	// Config.Ranges.
	boundedRange bool
}

// newCall returns a GET call. An invalid repository, which must not become part
// of a URL, is the caller's mistake, so the error is not an [*Error].
func newCall(repository, path, object string) (*call, error) {
	if !reference.ValidRepository(repository) {
		return nil, errors.New("invalid repository name")
	}
	return &call{method: http.MethodGet, repository: repository, path: path, header: http.Header{}, object: object}, nil
}

// newDigestCall returns a GET call for the kind of content with digest d, such
// as "blob" below the path "blobs".
func newDigestCall(kind, repository, path string, d digest.Digest) (*call, error) {
	if _, err := reference.ParseDigest(string(d)); err != nil {
		return nil, err
	}
	return newCall(repository, path+"/"+string(d), kind+" "+string(d))
}

// withMethod returns a copy of the call with another method.
func (c *call) withMethod(method string) *call {
	d := *c
	d.method = method
	return &d
}

// url returns the URL of a call to the registry.
func (r *Registry) url(c *call) *url.URL {
	u := r.endpoint.JoinPath(c.repository, c.path)
	u.RawQuery = cmp.Or(c.rawQuery, c.query.Encode())
	return u
}
