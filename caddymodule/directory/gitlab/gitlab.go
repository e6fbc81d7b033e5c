// Package gitlab is the directory of a GitLab instance: the module
// http.dependency_proxy.directory.gitlab.
//
// A login is an access token, a deploy token or a CI job token, which GitLab itself
// checks; GitLab passwords are never sent. The facts of an account say which credential
// was shown, without the secret. At each request GitLab's answers decide whether the
// credential and its user are still active (login.go), whether the group exists, who
// may see it and which role the user has in it (groups.go). Answers are remembered for
// CacheFor, and up to Grace while GitLab cannot be asked (answers.go); they survive a
// reload. Unknown clients cannot use up the questions and logins that GitLab permits:
// budget.go limits deploy tokens, groups.go limits names of groups.
package gitlab

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabapi"
)

func init() { caddy.RegisterModule(new(Directory)) }

// Directory knows the users and groups of a GitLab instance. A login is a personal
// access token with the name of its user, an access token of a group, a deploy token of
// a group, or a CI job token. GitLab passwords are neither asked for nor sent.
//
// Roles in groups are those at GitLab, including inherited ones: guests and above are
// members, maintainers are maintainers, and owners are owners. A deploy token may pull
// from its group and the subgroups. A job token may pull from wherever the user of the
// job may, while the job runs. A token without the scope api permits nothing but
// pulling.
type Directory struct {
	// Name is the name by which the configuration lists accounts of this directory,
	// as in NAME:alice. The default is gitlab.
	Name string `json:"name,omitempty"`

	// URL is the URL of the instance, as in https://gitlab.example.com. It may
	// contain placeholders.
	URL string `json:"url"`

	// Token is the service token, with which everything but logins is asked. It must
	// be a placeholder, as in {file./run/secrets/gitlab}.
	Token string `json:"token"`

	// CacheFor is how long an answer of GitLab is used. The default is 30s.
	CacheFor caddy.Duration `json:"cache_for,omitempty"`

	// Grace is the age up to which an answer is used while GitLab cannot be asked.
	// Without such an answer access is denied. The default is 10m, or CacheFor if that
	// is longer.
	Grace caddy.Duration `json:"grace,omitempty"`

	// TokenPrefix is the prefix of the instance's tokens, if it has one of its own. If
	// GitLab refuses a token with this prefix, no other directory is asked.
	TokenPrefix string `json:"token_prefix,omitempty"`

	// MembersOnly limits public and internal groups to their members, as GitLab's own
	// dependency proxy does. The default is true. If it is false, every user who may
	// create groups at GitLab decides who may use the logins at upstreams.
	MembersOnly *bool `json:"members_only,omitempty"`

	// Groups are patterns of the groups of GitLab that exist here: acme/* matches the
	// subgroups of acme, acme/** matches acme and everything below it. By default all
	// groups exist that the service token can see.
	Groups []string `json:"groups,omitempty"`

	// TransportRaw makes the connections. The default is a plain transport over
	// HTTP/1.1 and HTTP/2 without a proxy.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	*instance
	deploys *budget
	lease   pool.Lease
}

const (
	defaultCacheFor = 30 * time.Second
	defaultGrace    = 10 * time.Minute
)

// instances are the instances in use. They outlive a configuration, so that a reload
// while GitLab cannot be asked does not lock accounts out.
var instances = pool.New[*instance](nil)

// instance is a GitLab instance, with what is remembered about it.
type instance struct {
	client    *gitlabapi.Client
	name      string // in facts
	answers   *answers
	owners    *lru.Cache[int64, deployOwner] // the groups of deploy tokens, which never change
	questions *groupQuestions
}

// CaddyModule returns the Caddy module information.
func (*Directory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.dependency_proxy.directory.gitlab",
		New: func() caddy.Module { return new(Directory) },
	}
}

// Provision reads the service token. It does not connect to GitLab.
func (d *Directory) Provision(ctx caddy.Context) error {
	d.CacheFor = cmp.Or(d.CacheFor, caddy.Duration(defaultCacheFor))
	d.Grace = cmp.Or(d.Grace, max(d.CacheFor, caddy.Duration(defaultGrace)))
	if err := d.check(); err != nil {
		return err
	}
	instance, err := caddy.NewReplacer().ReplaceOrErr(d.URL, true, true)
	if err != nil {
		return fmt.Errorf("directory gitlab: URL: %w", err)
	}
	base, err := parseURL(instance)
	if err != nil {
		return err
	}
	if base.Scheme == "http" {
		ctx.Logger().Warn("GitLab is asked over plain HTTP, which does not protect the tokens", zap.String("host", base.Host))
	}
	token, err := parse.Secret("token", d.Token)
	if err != nil {
		return fmt.Errorf("directory gitlab: %w", err)
	}
	guest := d.TransportRaw != nil
	transport, err := directory.LoadTransport(ctx, d, guest)
	if err != nil {
		return fmt.Errorf("directory gitlab: %w", err)
	}
	return d.open(base, strings.TrimSpace(token), transport, guest)
}

// open acquires the instance. A guest transport belongs to one configuration, and so
// does an instance that uses it.
func (d *Directory) open(base *url.URL, token string, transport http.RoundTripper, guest bool) (err error) {
	key := fmt.Appendf(nil, "%s %q %v %v", base, token, d.CacheFor, d.Grace)
	if guest {
		key = fmt.Appendf(key, " %p", transport)
	}
	if d.deploys, err = budgets.Acquire(&d.lease, instanceName(base), newBudget); err != nil {
		return err
	}
	sum := sha256.Sum256(key)
	d.instance, err = instances.Acquire(&d.lease, string(sum[:]), func() (*instance, error) {
		owners, err := lru.New[int64, deployOwner](1024)
		return &instance{
			client:    gitlabapi.New(base, token, transport),
			name:      instanceName(base),
			answers:   newAnswers(time.Duration(d.CacheFor), time.Duration(d.Grace)),
			owners:    owners,
			questions: newGroupQuestions(),
		}, err
	})
	return err
}

// instanceName returns a short name that differs between instances, since the ids of
// users and tokens mean others elsewhere.
func instanceName(base *url.URL) string {
	sum := sha256.Sum256([]byte(strings.TrimSuffix(base.String(), "/")))
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

// Source implements [directory.Sourced]. It names the instance.
func (d *Directory) Source() string { return d.instance.name }

// Reach implements [directory.Remote]. A GitLab whose rate limit is reached answers.
func (d *Directory) Reach(ctx context.Context) error {
	if err := d.client.Reach(ctx); !errors.Is(err, gitlabapi.ErrLimited) {
		return err
	}
	return nil
}

// Cleanup releases the instance. Requests of the old configuration may still use it.
func (d *Directory) Cleanup() error {
	d.lease.Release()
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner        = (*Directory)(nil)
	_ caddy.CleanerUpper       = (*Directory)(nil)
	_ directory.GroupDirectory = (*Directory)(nil)
	_ directory.Sourced        = (*Directory)(nil)
	_ directory.Costly         = (*Directory)(nil)
	_ directory.TokenDirectory = (*Directory)(nil)
	_ directory.Remote         = (*Directory)(nil)
)
