package caddymodule

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// gitlabAt is the directive for an instance.
func gitlabAt(t *testing.T, g *gitlabtest.GitLab, lines ...string) string {
	t.Setenv("GITLAB_TOKEN", gitlabtest.ServiceToken)
	return "directory gitlab " + g.URL() + " {\n token {env.GITLAB_TOKEN}\n" + strings.Join(lines, "\n") + "\n}\n"
}

// quickly makes changes at GitLab come through at once, as tests go.
const shortCacheFor = "cache_for 20ms"

// gitlabSite is a site that only GitLab's users log in to.
func gitlabSite(t *testing.T, g *gitlabtest.GitLab, lines ...string) *site {
	t.Helper()
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := newSite(t)
	s.addSecrets(gitlabtest.ServiceToken, "secret-that-must-not-leak")
	s.load(append(lines, hub(up))...)
	return s
}

// ldapSite starts a site with groups that nobody is a member of but by LDAP.
func ldapSite(t testing.TB, lines ...string) *site {
	s := newSite(t)
	s.addSecrets(ldaptest.ServicePassword)
	s.load(append(lines, private("acme"), private("tools"))...)
	return s
}

func init() { caddy.RegisterModule(new(elsewhereDirectory)) }

// elsewhere is a directory that is not in the configuration: it knows whoever
// gives a password for "elsewhere", and fails as it is told to.
type elsewhereDirectory struct{}

var (
	elsewhereAway     atomic.Bool // whether it fails
	elsewhereAsked    atomic.Int32
	elsewhereFriendly atomic.Bool  // of the last login
	elsewhereHeard    atomic.Value // the name and the password in it
)

func (*elsewhereDirectory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.dependency_proxy.directory.elsewhere", New: func() caddy.Module { return new(elsewhereDirectory) }}
}

func (*elsewhereDirectory) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return parse.End(d)
}

func (e *elsewhereDirectory) Authenticate(ctx context.Context, login directory.Login) (directory.Account, error) {
	elsewhereFriendly.Store(login.Friendly)
	elsewhereHeard.Store(login.Name + " " + login.Password)
	account, err := e.Lookup(ctx, login.Name, "")
	if err == nil && login.Password != passwordOf("elsewhere") {
		err = directory.ErrWrongPassword
	}
	return account, err
}

func (e *elsewhereDirectory) Feign(ctx context.Context, login directory.Login) error {
	if _, err := e.Authenticate(ctx, login.Unknown()); err != nil && !directory.IsRefusal(err) {
		return err
	}
	return nil
}

func (*elsewhereDirectory) Lookup(_ context.Context, name, _ string) (directory.Account, error) {
	elsewhereAsked.Add(1)
	if elsewhereAway.Load() {
		return directory.Account{}, errors.New("the directory is away")
	}
	if strings.HasPrefix(name, "nobody") {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	return directory.Account{Name: name, Version: "1"}, nil
}
