package sitetest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// GitlabAt returns the directory block of an instance of GitLab.
func GitlabAt(t *testing.T, g *gitlabtest.GitLab, lines ...string) string {
	t.Setenv("GITLAB_TOKEN", gitlabtest.ServiceToken)
	return "directory gitlab " + g.URL() + " {\n token {env.GITLAB_TOKEN}\n" + strings.Join(lines, "\n") + "\n}\n"
}

// ShortCacheFor makes changes at GitLab apply soon.
const ShortCacheFor = "cache_for 20ms"

// GitlabSite starts a site where users log in with GitLab credentials.
func GitlabSite(t *testing.T, g *gitlabtest.GitLab, lines ...string) *Site {
	t.Helper()
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", Random(1, 100))
	s := NewSite(t)
	s.AddSecrets(gitlabtest.ServiceToken, "secret-that-must-not-leak")
	s.Load(append(lines, Hub(up))...)
	return s
}

// LdapSite starts a site whose groups have members only by LDAP.
func LdapSite(t testing.TB, lines ...string) *Site {
	s := NewSite(t)
	s.AddSecrets(ldaptest.ServicePassword)
	s.Load(append(lines, Private("acme"), Private("tools"))...)
	return s
}

func init() { caddy.RegisterModule(new(elsewhereDirectory)) }

// elsewhereDirectory is a directory module for tests, named elsewhere. It
// accepts each name that does not begin with nobody, with
// PasswordOf("elsewhere").
type elsewhereDirectory struct{}

// What the directory elsewhere does and has been asked.
var (
	ElsewhereAway     atomic.Bool // whether all questions fail
	ElsewhereAsked    atomic.Int32
	ElsewhereFriendly atomic.Bool  // Login.Friendly of the last login
	ElsewhereHeard    atomic.Value // name and password of the last login
)

func (*elsewhereDirectory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.dependency_proxy.directory.elsewhere", New: func() caddy.Module { return new(elsewhereDirectory) }}
}

func (*elsewhereDirectory) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return parse.End(d)
}

func (e *elsewhereDirectory) Authenticate(ctx context.Context, login directory.Login) (directory.Account, error) {
	ElsewhereFriendly.Store(login.Friendly)
	ElsewhereHeard.Store(login.Name + " " + login.Password)
	account, err := e.Lookup(ctx, login.Name, "")
	if err == nil && login.Password != PasswordOf("elsewhere") {
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
	ElsewhereAsked.Add(1)
	if ElsewhereAway.Load() {
		return directory.Account{}, errors.New("the directory is away")
	}
	if strings.HasPrefix(name, "nobody") {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	return directory.Account{Name: name, Version: "1"}, nil
}

// GitlabFaults are answers that do not tell whether GitLab accepts a request.
var GitlabFaults = map[string]func(w http.ResponseWriter, r *http.Request) bool{
	"down":       func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
	"500":        respond(500, "application/json", `{"message":"500 Internal Server Error"}`),
	"503":        respond(503, "text/html", "<html>GitLab is not responding</html>"),
	"limited":    respond(429, "text/plain", "Retry later"),
	"a balancer": respond(404, "text/html", "<html>no such site</html>"),
	"banned":     respond(403, "text/plain", "Forbidden"),
	"garbage":    respond(200, "application/json", "{"),
	"something":  respond(200, "application/json", "{}"),
	"a page":     respond(200, "text/html", "<html>sign in</html>"),
	"huge":       respond(200, "application/json", `"`+strings.Repeat("x", 1<<20)+`"`),
	"cut off": func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "{")
		return true
	},
}

// NewGitLabWithEve returns an instance of GitLab with groups that eve owns, and
// the logins of eve and of a deploy token of the first group. The last of
// several groups is public.
func NewGitLabWithEve(t *testing.T, groups ...string) (g *gitlabtest.GitLab, eve, deploy RequestOption) {
	g = gitlabtest.New(t)
	secret := g.AddUser(66, "eve")
	for i, path := range groups {
		visibility := "private"
		if i > 0 && i == len(groups)-1 {
			visibility = "public"
		}
		g.AddGroup(int64(10+i), path, visibility, 66)
		g.Change(func() { g.Groups[int64(10+i)].Members[66].Level = 50 })
	}
	g.Change(func() {
		g.Groups[10].Deploy[1] = &gitlabtest.DeployToken{Name: "puller", Secret: "gldt-deploy-secret-that-must-not-leak", Scopes: []string{"read_registry", "write_registry"}}
	})
	return g, Basic("eve", secret), Basic("puller", "gldt-deploy-secret-that-must-not-leak")
}

// SetPasswordQueue replaces the queue for hashes of the process.
func SetPasswordQueue(q *password.Queue) (restore func()) {
	before := password.DefaultQueue
	password.DefaultQueue = q
	return func() { password.DefaultQueue = before }
}

// respond returns a fault that answers each request with the given response.
func respond(code int, mediaType, body string) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", mediaType)
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
		return true
	}
}
