// Package gitlabtest is a GitLab for tests: the few endpoints of the REST API
// that a registry asks, answering as GitLab's documentation says, with what a
// test puts in, and with faults where a test wants them.
//
// It is strict where GitLab is: a service token is an administrator's or sees
// what its user may, a deploy token is no credential of the API, a job token is
// one only while its job runs, deploy tokens are shown to maintainers alone. What
// it is asked is counted, so that a test can tell what was remembered.
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

// ServiceToken is the token of the instance's service user.
const ServiceToken = "glpat-service-token-that-must-not-leak"

// GitLab is an instance. Its fields are changed by Change.
type GitLab struct {
	// Admin makes the service user an administrator, who sees all tokens, jobs
	// and deploy tokens. Others see none of them.
	Admin bool
	// Maintainer lets the service user see deploy tokens without that.
	Maintainer bool
	// NoRegistry turns the container registry off.
	NoRegistry bool

	Users  map[int64]*User
	Tokens map[string]*Token // by secret
	Jobs   map[string]*Job   // by secret
	Groups map[int64]*Group

	// Fault answers instead, if it returns true.
	Fault func(w http.ResponseWriter, r *http.Request) bool

	mu     sync.Mutex
	asked  map[string]int
	seen   []string // credentials
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

// Group is a group with its direct members.
type Group struct {
	Path, Visibility string
	Hidden           bool // from the service user
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
	for pattern, answer := range map[string]http.HandlerFunc{
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
			answer(w, r)
		})
	}
	g.server = httptest.NewServer(api)
	t.Cleanup(g.server.Close)
	return g
}

// URL is the instance's.
func (g *GitLab) URL() string { return g.server.URL }

// Change changes the instance while it runs.
func (g *GitLab) Change(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

// Asked is how often the endpoints were asked whose path begins so.
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

// Saw tells whether some text was among the credentials that came.
func (g *GitLab) Saw(text string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.seen, func(s string) bool { return strings.Contains(s, text) })
}

// AddUser adds an active user with a token of full scope, and returns the token.
func (g *GitLab) AddUser(id int64, name string) (secret string) {
	secret = "glpat-" + url.PathEscape(name) + "-secret-that-must-not-leak"
	g.Change(func() {
		g.Users[id] = &User{Name: name, State: "active"}
		g.Tokens[secret] = &Token{ID: 1000 + id, User: id, Name: "cli", Scopes: []string{"api"}}
	})
	return secret
}

// AddGroup adds a group with members as developers.
func (g *GitLab) AddGroup(id int64, path, visibility string, members ...int64) {
	g.Change(func() {
		group := &Group{Path: path, Visibility: visibility, Members: map[int64]*Member{}, Deploy: map[int64]*DeployToken{}}
		for _, m := range members {
			group.Members[m] = &Member{Level: 30}
		}
		g.Groups[id] = group
	})
}
