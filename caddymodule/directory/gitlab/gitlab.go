package gitlab

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabapi"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

func init() { caddy.RegisterModule(new(Directory)) }

// Directory knows the users and groups of a GitLab instance. A login is a
// personal access token with its user's name, a group's access token, a deploy
// token of a group, or a CI job token; GitLab passwords are neither asked for nor
// sent. Who may pull from a group is asked for when somebody does: at GitLab,
// guests and above are members, maintainers maintainers and owners owners, all
// with what flows down from the groups above.
//
// A deploy token pulls from its group and from the groups below it. A job token
// pulls from wherever the user whose job it is may, while the job runs. Who has
// only a token without the scope api does nothing but pull.
type Directory struct {
	// Name names the directory where its accounts are listed, as in NAME:alice. The
	// default is gitlab.
	Name string `json:"name,omitempty"`

	// URL is the instance's, as in https://gitlab.example.com.
	URL string `json:"url"`

	// Token is the service token that all but logins is asked with. It must be
	// a placeholder, as in {file./run/secrets/gitlab}.
	Token string `json:"token"`

	// CacheFor is how long an answer of GitLab's is believed: 30s by default.
	CacheFor caddy.Duration `json:"cache_for,omitempty"`

	// Grace is how old an answer may be while GitLab cannot be asked: 10m by
	// default. What has no such answer is denied then.
	Grace caddy.Duration `json:"grace,omitempty"`

	// TokenPrefix is the prefix of the instance's tokens, if it has one of its
	// own. Tokens that begin with it are nobody else's: if GitLab refuses one,
	// no further directory is asked.
	TokenPrefix string `json:"token_prefix,omitempty"`

	// MembersOnly limits public and internal groups to their members too, as GitLab's
	// own dependency proxy does. The default is true. With false, every user who may
	// create groups at GitLab decides who may use the upstreams' logins.
	MembersOnly *bool `json:"members_only,omitempty"`

	// Groups are patterns of the groups of GitLab that exist here: acme/* are
	// the subgroups of acme, acme/** is acme and everything below it. None means
	// all groups that the service token can see.
	Groups []string `json:"groups,omitempty"`

	// Transport makes the connections; by default a plain one over HTTP/1.1
	// and HTTP/2 that uses no proxy.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	*instance
	deploys *budget
	lease   pool.Lease
}

const (
	defaultCacheFor = 30 * time.Second
	defaultGrace    = 10 * time.Minute
)

// instances are the instances in use, with what is remembered of them, so that a
// reload while one is away denies nobody.
var instances = pool.New[*instance](nil)

type instance struct {
	client  *gitlabapi.Client
	name    string // of the instance, in facts
	answers *answers

	// owners are the groups of deploy tokens, which do not move.
	owners *lru.Cache[int64, deployOwner]

	questions *groupQuestions
}

// CaddyModule returns the Caddy module information.
func (*Directory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.dependency_proxy.directory.gitlab",
		New: func() caddy.Module { return new(Directory) },
	}
}

// Provision reads the service token. GitLab is not asked before it is needed.
func (d *Directory) Provision(ctx caddy.Context) error {
	d.CacheFor = cmp.Or(d.CacheFor, caddy.Duration(defaultCacheFor))
	d.Grace = cmp.Or(d.Grace, max(d.CacheFor, caddy.Duration(defaultGrace)))
	if err := d.check(); err != nil {
		return err
	}
	repl := caddy.NewReplacer()
	instance, err := repl.ReplaceOrErr(d.URL, true, true)
	if err != nil {
		return fmt.Errorf("directory gitlab: URL: %w", err)
	}
	base, err := parseURL(instance)
	if err != nil {
		return err
	}
	if base.Scheme == "http" {
		ctx.Logger().Warn("GitLab is asked over plain http, tokens and all", zap.String("host", base.Host))
	}
	token, err := repl.ReplaceOrErr(d.Token, true, true)
	if token = strings.TrimSpace(token); err != nil || token == "" {
		return fmt.Errorf("directory gitlab: the token placeholder %s is empty, or its file cannot be read", d.Token)
	}
	var transport http.RoundTripper
	if d.TransportRaw != nil {
		mod, err := ctx.LoadModule(d, "TransportRaw")
		if err != nil {
			return err
		}
		var ok bool
		if transport, ok = mod.(http.RoundTripper); !ok {
			return fmt.Errorf("directory gitlab: transport %T cannot be used here", mod)
		}
	}
	return d.open(base, token, transport)
}

func (d *Directory) open(base *url.URL, token string, transport http.RoundTripper) error {
	// A guest transport belongs to this configuration, and so does its client.
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %q %v %v %p", base, token, d.CacheFor, d.Grace, transport))
	if transport == nil {
		// Where GitLab is says who writes the configuration, and no answer of
		// GitLab's leads elsewhere.
		transport = upstream.NewTransport(upstream.TransportConfig{AllowPrivate: true})
	}
	var err error
	if d.deploys, err = budgets.Acquire(&d.lease, instanceName(base), newBudget); err != nil {
		return err
	}
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

// instanceName is short, and another for each instance: numbers of users and
// tokens mean others elsewhere.
func instanceName(base *url.URL) string {
	sum := sha256.Sum256([]byte(strings.TrimSuffix(base.String(), "/")))
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

// Source implements [Sourced]: the accounts are those of the instance.
func (d *Directory) Source() string { return d.instance.name }

// Cleanup gives up the instance. Requests that still use it go on.
func (d *Directory) Cleanup() error {
	d.lease.Release()
	return nil
}

func (d *Directory) check() error {
	if err := d.checkURL(); err != nil {
		return err
	}
	if d.Grace != 0 && d.Grace < cmp.Or(d.CacheFor, caddy.Duration(defaultCacheFor)) {
		return fmt.Errorf("directory gitlab: the grace %v is shorter than cache_for", time.Duration(d.Grace))
	}
	return cmp.Or(d.checkGroups(), d.checkServiceToken())
}

func (d *Directory) checkURL() error {
	if strings.Contains(d.URL, "{") {
		return nil // which its placeholders decide
	}
	_, err := parseURL(d.URL)
	return err
}

func (d *Directory) checkServiceToken() error {
	switch {
	case d.Token == "":
		return errors.New("directory gitlab: there is no service token; write `token {file./run/secrets/gitlab}`")
	case !strings.HasPrefix(d.Token, "{") || !strings.HasSuffix(d.Token, "}"):
		return errors.New("directory gitlab: the token stands in the configuration, where the admin API shows it; write a placeholder as in {env.GITLAB_TOKEN} or {file./run/secrets/gitlab}")
	}
	return nil
}

// parseURL does not show the URL in its error, since it may be wrong by
// having a password in it.
func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("directory gitlab: the URL is not one as in https://gitlab.example.com")
	}
	return u, nil
}

// RoleIn implements [GroupDirectory].
func (d *Directory) RoleIn(ctx context.Context, account directory.Account, path string) (directory.Role, error) {
	c, err := parseCredential(account.Facts)
	if err != nil || c.User == 0 {
		return directory.NoRole, nil // deploy tokens have theirs already
	}
	group, err := d.group(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return directory.NoRole, nil
	}
	if err != nil {
		return directory.NoRole, err
	}
	member, err := d.answers.members.Get(ctx, fmt.Sprintf("%d/%d", group.ID, c.User), func(ctx context.Context) (gitlabapi.Member, error) {
		return d.client.Member(ctx, group.ID, c.User)
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return directory.NoRole, nil
	case err != nil:
		return directory.NoRole, err
	case gitlabapi.Passed(member.ExpiresAt, time.Now()), member.State != "" && member.State != "active":
		return directory.NoRole, nil
	}
	return roleOfLevel(member.AccessLevel), nil
}

// roleOfLevel reads GitLab's access levels ("Roles and permissions"). Below a
// guest there is minimal access, which is that to the group's name.
func roleOfLevel(level int) directory.Role {
	switch {
	case level >= 50:
		return directory.Owner
	case level >= 40:
		return directory.Maintainer
	case level >= 10:
		return directory.Member
	}
	return directory.NoRole
}

// VisibilityOf implements [GroupDirectory].
func (d *Directory) VisibilityOf(ctx context.Context, path string) (directory.Visibility, error) {
	group, err := d.group(ctx, path)
	switch {
	case err != nil:
		return "", err
	case !d.MayBePublic():
		return directory.Private, nil
	}
	switch v := directory.Visibility(group.Visibility); v {
	case directory.Public, directory.Internal:
		return v, nil
	}
	return directory.Private, nil
}

// Interface guards
var (
	_ caddy.Provisioner        = (*Directory)(nil)
	_ caddy.CleanerUpper       = (*Directory)(nil)
	_ directory.GroupDirectory = (*Directory)(nil)
	_ directory.Sourced        = (*Directory)(nil)
	_ directory.Closed         = (*Directory)(nil)
	_ directory.Costly         = (*Directory)(nil)
)
