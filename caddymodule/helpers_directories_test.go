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

// gitlabAt returns the directory block of an instance of GitLab.
func gitlabAt(t *testing.T, g *gitlabtest.GitLab, lines ...string) string {
	t.Setenv("GITLAB_TOKEN", gitlabtest.ServiceToken)
	return "directory gitlab " + g.URL() + " {\n token {env.GITLAB_TOKEN}\n" + strings.Join(lines, "\n") + "\n}\n"
}

// shortCacheFor makes changes at GitLab apply soon.
const shortCacheFor = "cache_for 20ms"

// gitlabSite starts a site where users log in with GitLab credentials.
func gitlabSite(t *testing.T, g *gitlabtest.GitLab, lines ...string) *site {
	t.Helper()
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := newSite(t)
	s.addSecrets(gitlabtest.ServiceToken, "secret-that-must-not-leak")
	s.load(append(lines, hub(up))...)
	return s
}

// ldapSite starts a site whose groups have members only by LDAP.
func ldapSite(t testing.TB, lines ...string) *site {
	s := newSite(t)
	s.addSecrets(ldaptest.ServicePassword)
	s.load(append(lines, private("acme"), private("tools"))...)
	return s
}

func init() { caddy.RegisterModule(new(elsewhereDirectory)) }

// elsewhereDirectory is a directory module for tests, named elsewhere. It
// accepts each name that does not begin with nobody, with
// passwordOf("elsewhere").
type elsewhereDirectory struct{}

var (
	elsewhereAway     atomic.Bool // whether all questions fail
	elsewhereAsked    atomic.Int32
	elsewhereFriendly atomic.Bool  // Login.Friendly of the last login
	elsewhereHeard    atomic.Value // name and password of the last login
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
