package peers

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// ProbePath is the path at which each node says who it is. The paths of content are
// below it: blobs/DIGEST and manifests/REFERENCE.
const ProbePath = "/dependency_proxy/peer/"

// Kind is the kind of content that a node asks another one for.
type Kind string

// The kinds of content.
const (
	Blob     Kind = "blobs"
	Manifest Kind = "manifests"
)

// Ask is what a node asks another one for. The name of the site belongs to the
// [Cluster]. All fields are required except for Purged.
type Ask struct {
	Kind Kind `json:"kind"`

	// Group, Upstream and Repository name the scope for which the asking node has
	// authorized its client: the path of the group, the name of the upstream, and
	// the name of the repository at the upstream.
	Group      string `json:"group"`
	Upstream   string `json:"upstream"`
	Repository string `json:"repository"`

	// Reference is a digest or, for a manifest, also a tag.
	Reference string `json:"reference"`

	// Fingerprint is that of the upstream and the login there, so that nodes with other
	// settings share nothing.
	Fingerprint string `json:"fingerprint"`

	// From is the id of the process that asks. [Node.Get] sets it.
	From string `json:"from"`

	// Purged is when the scope was last purged, as far as the asking node knows, or zero.
	// What the node that is asked has recorded for it before does not count.
	Purged time.Time `json:"purged,omitzero"`
}

// facts are what a token contains.
type facts struct {
	Site string `json:"site"`
	Ask
}

// IsOf reports whether the scope of the ask is that of another one, and the settings of the
// upstream are the same there.
func (a Ask) IsOf(other Ask) bool {
	return a.Group == other.Group && a.Upstream == other.Upstream && a.Repository == other.Repository && a.Fingerprint == other.Fingerprint
}

// path returns the path of the request for the content.
func (a Ask) path() string { return ProbePath + string(a.Kind) + "/" + a.Reference }

func (a Ask) check() error {
	_, err := reference.ParseDigest(a.Reference)
	byTag := a.Kind == Manifest && reference.ValidTag(a.Reference)
	switch {
	case a.Kind != Blob && a.Kind != Manifest:
		return fmt.Errorf("unknown kind of content '%s'", a.Kind)
	case err != nil && !byTag:
		return fmt.Errorf("invalid reference '%s'", a.Reference)
	case !reference.ValidRepository(a.Group) || !reference.ValidRepository(a.Upstream) || !reference.ValidRepository(a.Repository):
		return errors.New("invalid name of a group, an upstream or a repository")
	case a.Fingerprint == "":
		return errors.New("no fingerprint of the endpoint")
	}
	return nil
}

// The errors of requests from other nodes.
var (
	// errUnauthorized means that a request has no token that is valid at this
	// process now. Its status is 401.
	errUnauthorized = errors.New("no valid token of a node")

	// errForbidden means that a request asks for something other than its token
	// names. Its status is 403.
	errForbidden = errors.New("the token is for another request")

	// errPlain means that a request has not come over TLS to this process. Its status is
	// 403.
	errPlain = errors.New("the request has come over plain HTTP, and nodes use https only")
)

// authorize is [Cluster.Admit] without the limit of requests.
func (c *Cluster) authorize(r *http.Request) (Ask, error) {
	if c == nil {
		return Ask{}, errUnauthorized
	}
	if r.TLS == nil {
		return Ask{}, errPlain
	}
	l := c.current()
	scheme, raw, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if l == nil || !strings.EqualFold(scheme, "Bearer") {
		return Ask{}, errUnauthorized
	}
	text, err := l.Issuer.VerifyPeer(r.Context(), raw, c.id)
	if err != nil {
		if errors.Is(err, tokenissuer.ErrKeysUnavailable) {
			return Ask{}, err
		}
		return Ask{}, fmt.Errorf("%w: %w", errUnauthorized, err)
	}
	var f facts
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return Ask{}, fmt.Errorf("%w: its facts are not JSON", errForbidden)
	}
	if f.Site != c.site {
		return Ask{}, fmt.Errorf("%w: it is for the site '%s'", errForbidden, f.Site)
	}
	if f.path() != r.URL.EscapedPath() || f.check() != nil {
		return Ask{}, fmt.Errorf("%w: it is for %s", errForbidden, f.path())
	}
	if !isProcess(f.From) || f.From == c.id {
		return Ask{}, fmt.Errorf("%w: it does not name another process that asks", errForbidden)
	}
	return f.Ask, nil
}

// maxServing is the greatest number of requests of other nodes that are answered at once.
// A node that asks for more content at a time asks the upstream for the rest.
const maxServing = 1024

// errBusy means that too many requests of other nodes are being answered. Its status is
// 503.
var errBusy = errors.New("too many requests of other nodes")

// StatusOf returns the status of the response to a request that is not admitted: 401, 403 or
// 503.
func StatusOf(err error) int {
	switch {
	case errors.Is(err, errForbidden), errors.Is(err, errPlain):
		return http.StatusForbidden
	case errors.Is(err, errUnauthorized):
		return http.StatusUnauthorized
	}
	return http.StatusServiceUnavailable
}

// Admit returns what a request from another node asks for if its token permits that: the
// request must come over TLS, and the token must be signed by the shared keys, be minted
// for this process and this site within the last 60 seconds, and name the path of the
// request. The caller must check that the fingerprint is that of the endpoint. The request
// counts as one of the 1024 that are answered at once until done is called.
//
// [StatusOf] returns the status for an error. The error is a
// [tokenissuer.ErrKeysUnavailable] if the keys that verify the token cannot be read. A nil
// Cluster admits nothing.
func (c *Cluster) Admit(r *http.Request) (ask Ask, done func(), err error) {
	if ask, err = c.authorize(r); err != nil {
		return ask, nil, err
	}
	if c.serving.Add(1) > maxServing {
		c.serving.Add(-1)
		return ask, nil, errBusy
	}
	return ask, func() { c.serving.Add(-1) }, nil
}

// Anybody can send requests that are refused. Therefore the audit log has the first
// maxRefusals of them, and then one every refusalEvery. These are the rates at which an
// address may send wrong logins.
const (
	maxRefusals  = 30
	refusalEvery = 10 * time.Second
)

// Refusal returns the reason with which the audit log records that a request was not
// admitted, including how many requests it has left out since the last one. It reports
// false if it must leave out this one too.
func (c *Cluster) Refusal(err error) (reason string, ok bool) {
	if !c.refusals.AllowN(c.now(), 1) {
		c.unlogged.Add(1)
		return "", false
	}
	reason = err.Error()
	if left := c.unlogged.Swap(0); left > 0 {
		reason += fmt.Sprintf("; %d more requests were refused before", left)
	}
	return reason, true
}

// ServeProbe answers a request for [ProbePath] with the id of this process. The id is not
// secret, and serves only to recognize the process.
func (c *Cluster) ServeProbe(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(identity{ID: c.id}) // an error means that the node has left
}

// identity is the answer to a probe.
type identity struct {
	ID string `json:"id"`
}

// isProcess reports whether a text has the form of the id of a process.
func isProcess(id string) bool {
	return len(id) == 26 && !strings.ContainsFunc(id, func(r rune) bool { return (r < 'A' || r > 'Z') && (r < '2' || r > '7') })
}
