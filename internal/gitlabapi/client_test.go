package gitlabapi

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
)

func client(t *testing.T, instance string) *Client {
	u, err := url.Parse(instance)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return New(u, gitlabtest.ServiceToken, transport)
}

// TestClientErrors: which errors the answers of GitLab lead to.
func TestClientErrors(t *testing.T) {
	g := gitlabtest.New(t)
	alice := g.AddUser(24, "Alice")
	g.AddGroup(1, "Acme", "private", 24)
	g.AddGroup(2, "acme/1", "private")
	g.Groups[1].Deploy[11] = &gitlabtest.DeployToken{Name: "puller", Secret: "gldt-x", Scopes: []string{"read_registry"}}
	c, ctx := client(t, g.URL()+"/"), t.Context()
	var errs []error
	ask := func(_ any, err error) { errs = append(errs, err) }
	ask(c.TokenOf(ctx, alice))
	ask(c.Token(ctx, 1024))
	ask(c.User(ctx, 24))
	ask(c.UserNamed(ctx, "aLICE"))
	ask(c.Group(ctx, "acme"))
	ask(c.Group(ctx, "acme/1"))
	ask(c.GroupByID(ctx, 2))
	ask(c.Member(ctx, 2, 24))
	ask(c.DeployToken(ctx, 1, 11))
	ask(c.DeployLogin(ctx, "puller", "gldt-x"))
	for i, err := range errs {
		if err != nil {
			t.Errorf("question %d: got %v, want no error", i, err)
		}
	}
	refuse := func(want error, _ any, err error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	token, err := c.TokenOf(ctx, "glpat-other")
	refuse(ErrRefused, token, err)
	job, err := c.JobOf(ctx, "glcbt-other")
	refuse(ErrRefused, job, err)
	id, err := c.DeployLogin(ctx, "puller", "gldt-y")
	refuse(ErrRefused, id, err)
	token, err = c.Token(ctx, 5)
	refuse(fs.ErrNotExist, token, err)
	user, err := c.User(ctx, 5)
	refuse(fs.ErrNotExist, user, err)
	user, err = c.UserNamed(ctx, "al")
	refuse(fs.ErrNotExist, user, err)
	group, err := c.Group(ctx, "1") // which GitLab takes for a number
	refuse(fs.ErrNotExist, group, err)
	member, err := c.Member(ctx, 2, 25)
	refuse(fs.ErrNotExist, member, err)
	job, err = c.Job(ctx, 70, 8)
	refuse(ErrHidden, job, err)
	g.Change(func() { g.Admin, g.Users[24].State = false, "blocked" })
	token, err = c.TokenOf(ctx, alice)
	refuse(ErrForbidden, token, err)
	token, err = c.Token(ctx, 1024)
	refuse(ErrHidden, token, err)
	deploy, err := c.DeployToken(ctx, 1, 11)
	refuse(ErrHidden, deploy, err)
	g.Change(func() { g.NoRegistry = true })
	id, err = c.DeployLogin(ctx, "puller", "gldt-x") // too little for the dependency proxy
	refuse(ErrForbidden, id, err)
}

// TestClientTrouble: anything but a definite answer is a Trouble, whose text holds no
// secret.
func TestClientTrouble(t *testing.T) {
	g := gitlabtest.New(t)
	alice := g.AddUser(24, "alice")
	c := client(t, g.URL())
	for name, row := range map[string]struct {
		status            int
		mediaType, body   string
		away              bool
		retryAfter, wants string
	}{
		"limited":   {429, "text/plain", "Retry later", true, "42", "rate limit"},
		"odd limit": {429, "text/plain", "Retry later", true, "Wed, 21 Oct 2015 07:28:00 GMT", "rate limit"},
		"huge":      {200, "application/json", `"` + strings.Repeat("x", 1<<20) + `"`, true, "", "longer than"},
		"huge no":   {404, "application/json", strings.Repeat("x", 2<<20), true, "", "longer than"},
		"no JSON":   {200, "application/json", "{", true, "", "not valid JSON"},
		"too long":  {400, "text/html", "Request Header Or Cookie Too Large", false, "", "status 400"},
		"in repair": {503, "text/html", "", true, "7", "status 503"},
		"a page":    {404, "text/html", "no such site", true, "", "status 404"},
		"moved":     {302, "text/html", "", true, "", "redirects"},
		"nothing":   {200, "application/json", "{}", false, "", "lacks"},
		"other one": {200, "application/json", `{"id":0,"user_id":-1}`, false, "", "lacks"},
	} {
		g.Change(func() {
			g.Fault = func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Content-Type", row.mediaType)
				w.Header().Set("Retry-After", row.retryAfter)
				w.Header().Set("Location", "/")
				w.WriteHeader(row.status)
				_, _ = io.WriteString(w, row.body)
				return true
			}
		})
		_, err := c.TokenOf(t.Context(), alice)
		var trouble *Trouble
		if !errors.As(err, &trouble) || trouble.Away != row.away || !strings.Contains(err.Error(), row.wants) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %#v, want Trouble with %q, away %v", name, err, row.wants, row.away)
			continue
		}
		want := map[string]time.Duration{"42": 42 * time.Second, "7": 7 * time.Second}[row.retryAfter]
		if trouble.Wait != want {
			t.Errorf("%s: got retry after %v, want %v", name, trouble.Wait, want)
		}
	}
}

// TestClientTimeout: the client waits neither for the header of a response nor for its body
// without limit.
func TestClientTimeout(t *testing.T) {
	g := gitlabtest.New(t)
	release := make(chan struct{})
	for name, begin := range map[string]func(http.ResponseWriter){
		"head": func(http.ResponseWriter) {},
		"body": func(w http.ResponseWriter) { _, _ = io.WriteString(w, "{"); _ = http.NewResponseController(w).Flush() },
	} {
		g.Change(func() {
			g.Fault = func(w http.ResponseWriter, r *http.Request) bool {
				begin(w)
				select {
				case <-r.Context().Done():
				case <-release:
				}
				return true
			}
		})
		c := client(t, g.URL())
		c.timeout = 50 * time.Millisecond
		var trouble *Trouble
		if _, err := c.User(t.Context(), 1); !errors.As(err, &trouble) || !trouble.Away || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v, want a Trouble about the deadline", name, err)
		}
	}
	close(release)
}

// TestMayPull: the scopes that GitLab's dependency proxy requires.
func TestMayPull(t *testing.T) {
	for scopes, want := range map[string]bool{
		"api": true, "read_registry write_registry": true, "read_virtual_registry read_registry": true, "write_virtual_registry write_registry": true,
		"read_virtual_registry write_virtual_registry": true, "read_api read_registry api": true,
		"": false, "read_api": false, "read_registry": false, "write_registry": false, "read_virtual_registry": false,
		"write_virtual_registry": false, "write_virtual_registry read_registry": false, "read_user read_repository": false,
	} {
		if got := MayPull(strings.Fields(scopes)); got != want {
			t.Errorf("%q: got %v, want %v", scopes, got, want)
		}
	}
}

// TestPassed: a date has passed when its day begins.
func TestPassed(t *testing.T) {
	now := time.Date(2026, 5, 9, 23, 59, 0, 0, time.UTC)
	for date, want := range map[string]bool{"": false, "2026-05-09": true, "2026-05-10": false, "2025-12-31": true, "2026-05-09T00:00:00.000Z": true, "2026-05-10T00:00:00.000Z": false} {
		if got := Passed(date, now); got != want {
			t.Errorf("%q: got %v, want %v", date, got, want)
		}
	}
}
