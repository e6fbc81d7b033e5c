// Package gitlabtest provides a GitLab instance for tests. It implements the few
// endpoints of the REST API that a registry uses, and the token service, as GitLab
// documents them.
//
// [New] starts an instance that ends with the test. A test adds users, groups and
// tokens, changes them with Change while the instance runs, and sets Fault to
// replace responses. Permissions are those of GitLab: the service token belongs to
// an administrator or sees what its user may see, a deploy token is not a
// credential of the API, a job token is valid only while its job runs, and deploy
// tokens are visible only to maintainers. Requests are counted, so that a test can
// check what was cached.
package gitlabtest

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// ServiceToken is the access token of the service user.
const ServiceToken = "glpat-service-token-that-must-not-leak"

// GitLab is a running instance. Its exported fields are set before the first
// request, or in a function that is passed to Change.
type GitLab struct {
	// Admin reports whether the service user is an administrator. Only an
	// administrator sees all tokens, jobs and deploy tokens. New sets it.
	Admin bool

	// Maintainer lets a service user that is not an administrator see deploy
	// tokens.
	Maintainer bool

	// NoRegistry disables the container registry.
	NoRegistry bool

	Users  map[int64]*User
	Tokens map[string]*Token // by secret
	Jobs   map[string]*Job   // by secret
	Groups map[int64]*Group

	// Fault handles each request first if it is not nil. If it returns true, it
	// has responded.
	Fault func(w http.ResponseWriter, r *http.Request) bool

	mu     sync.Mutex
	asked  map[string]int
	seen   []string // the credentials of each request
	server *httptest.Server
}

// User is an account.
type User struct {
	Name, State   string
	Bot, External bool
}

// Token is an access token.
type Token struct {
	ID, User int64
	Name     string
	Scopes   []string
	Revoked  bool
	Expires  string
}

// Job is a CI job.
type Job struct {
	ID, Project, User int64
	Status            string
}

// Group is a group with its direct members and its deploy tokens.
type Group struct {
	Path, Visibility string
	Hidden           bool // not visible to the service user
	Members          map[int64]*Member
	Deploy           map[int64]*DeployToken
}

// Member is a direct membership.
type Member struct {
	Level          int
	Expires, State string
}

// DeployToken is a deploy token of a group.
type DeployToken struct {
	Name, Secret     string
	Scopes           []string
	Revoked, Expired bool
}

// New starts an instance that ends with the test.
func New(t testing.TB) *GitLab {
	g := &GitLab{
		Admin: true, Users: map[int64]*User{}, Tokens: map[string]*Token{}, Jobs: map[string]*Job{}, Groups: map[int64]*Group{},
		asked: map[string]int{},
	}
	api := http.NewServeMux()
	for pattern, handle := range map[string]http.HandlerFunc{
		"GET /api/v4/personal_access_tokens/self":       g.self,
		"GET /api/v4/personal_access_tokens/{id}":       g.service(g.token),
		"GET /api/v4/job":                               g.ownJob,
		"GET /api/v4/projects/{project}/jobs/{id}":      g.service(g.job),
		"GET /api/v4/users":                             g.service(g.userNamed),
		"GET /api/v4/users/{id}":                        g.service(g.user),
		"GET /api/v4/groups":                            g.service(g.groups),
		"GET /api/v4/groups/{group}":                    g.service(g.group),
		"GET /api/v4/groups/{group}/members/all/{id}":   g.service(g.member),
		"GET /api/v4/groups/{group}/deploy_tokens/{id}": g.service(g.deployToken),
		"GET /jwt/auth":                                 g.jwt,
	} {
		api.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			g.mu.Lock()
			g.asked[strings.TrimPrefix(pattern, "GET ")]++
			g.seen = append(g.seen, strings.Join(slices.Concat(r.Header["Private-Token"], r.Header["Job-Token"], r.Header["Authorization"]), "\n"))
			fault := g.Fault
			g.mu.Unlock()
			if fault != nil && fault(w, r) {
				return
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			handle(w, r)
		})
	}
	g.server = httptest.NewServer(api)
	t.Cleanup(g.server.Close)
	return g
}

// URL returns the address of the instance.
func (g *GitLab) URL() string { return g.server.URL }

// Change calls a function that may change the fields of the instance and of what
// they contain while no request is handled.
func (g *GitLab) Change(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

// Asked returns the number of requests to endpoints whose pattern has a prefix, such
// as "/api/v4/users".
func (g *GitLab) Asked(prefix string) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for path, times := range g.asked {
		if strings.HasPrefix(path, prefix) {
			n += times
		}
	}
	return n
}

// Saw reports whether the credentials of any request contain text.
func (g *GitLab) Saw(text string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.seen, func(s string) bool { return strings.Contains(s, text) })
}

// AddUser adds an active user with an access token of scope api, and returns the
// token.
func (g *GitLab) AddUser(id int64, name string) (secret string) {
	secret = "glpat-" + url.PathEscape(name) + "-secret-that-must-not-leak"
	g.Change(func() {
		g.Users[id] = &User{Name: name, State: "active"}
		g.Tokens[secret] = &Token{ID: 1000 + id, User: id, Name: "cli", Scopes: []string{"api"}}
	})
	return secret
}

// AddGroup adds a group whose members are developers.
func (g *GitLab) AddGroup(id int64, path, visibility string, members ...int64) {
	g.Change(func() {
		group := &Group{Path: path, Visibility: visibility, Members: map[int64]*Member{}, Deploy: map[int64]*DeployToken{}}
		for _, m := range members {
			group.Members[m] = &Member{Level: 30}
		}
		g.Groups[id] = group
	})
}
