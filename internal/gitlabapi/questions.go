package gitlabapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Token is a personal access token, or one of the bot user of a group
// ("Personal access tokens API").
type Token struct {
	ID     int64    `json:"id"`
	Name   string   `json:"name"`
	UserID int64    `json:"user_id"`
	Scopes []string `json:"scopes"`

	// Active is false for what is revoked or has expired.
	Active bool `json:"active"`
	// ExpiresAt is the date on which it does, as in 2026-01-31, or empty.
	ExpiresAt string `json:"expires_at"`
}

// User is an account ("Users API").
type User struct {
	ID       int64  `json:"id"`
	Username string `json:"username"`
	// State is "active", or what keeps the user out.
	State string `json:"state"`
	// Bot marks the user that GitLab makes for an access token of a group.
	Bot bool `json:"bot"`
	// External users see no internal groups. GitLab tells it to administrators
	// alone, so to others nobody is.
	External bool `json:"external"`
}

// Job is a run of a CI job ("Jobs API").
type Job struct {
	ID       int64  `json:"id"`
	Status   string `json:"status"`
	User     User   `json:"user"`
	Pipeline struct {
		ProjectID int64 `json:"project_id"`
	} `json:"pipeline"`
}

// Running tells whether the job's token is still good.
func (j Job) Running() bool { return j.Status == "running" || j.Status == "canceling" }

// Group is a group or a subgroup ("Groups API").
type Group struct {
	ID         int64  `json:"id"`
	FullPath   string `json:"full_path"`
	Visibility string `json:"visibility"`
}

// Member is a membership, an inherited one too ("Group members API").
type Member struct {
	ID          int64  `json:"id"`
	AccessLevel int    `json:"access_level"`
	ExpiresAt   string `json:"expires_at"` // a date, or empty
	// State is "awaiting" for who is no member yet; empty where GitLab has no
	// such notion.
	State string `json:"membership_state"`
}

// DeployToken is a deploy token of a group ("Deploy tokens API").
type DeployToken struct {
	ID       int64    `json:"id"`
	Username string   `json:"username"`
	Revoked  bool     `json:"revoked"`
	Expired  bool     `json:"expired"`
	Scopes   []string `json:"scopes"`
}

// MayPull tells whether a token with these scopes may pull through GitLab's own
// dependency proxy ("Authenticate with the dependency proxy").
func MayPull(scopes []string) bool {
	has := func(scope string) bool { return slices.Contains(scopes, scope) }
	return has("api") || has("read_registry") && (has("write_registry") || has("read_virtual_registry")) ||
		has("write_virtual_registry") && (has("write_registry") || has("read_virtual_registry"))
}

// Passed tells whether a date in GitLab's form has come. What expires on a day
// does so at its beginning. GitLab counts in its own time zone; this is UTC.
func Passed(date string, now time.Time) bool {
	day, _, _ := strings.Cut(date, "T")
	return day != "" && day <= now.UTC().Format(time.DateOnly)
}

// TokenOf asks what a token is, with that token. Any scope is enough for this.
func (c *Client) TokenOf(ctx context.Context, secret string) (t Token, err error) {
	err = c.get(ctx, "a token", "/api/v4/personal_access_tokens/self", login{"PRIVATE-TOKEN", secret}, &t)
	return t, ofUser("a token", err, t.ID > 0 && t.UserID > 0)
}

// JobOf asks what job a job token is of, with that token. It is good only while
// the job runs.
func (c *Client) JobOf(ctx context.Context, secret string) (j Job, err error) {
	err = c.get(ctx, "a job", "/api/v4/job", login{"JOB-TOKEN", secret}, &j)
	return j, ofUser("a job", err, j.ID > 0 && j.User.ID > 0 && j.Pipeline.ProjectID > 0)
}

// ofUser words what came of a question that was asked with a user's credential.
func ofUser(what string, err error, whole bool) error {
	switch {
	case is(err, http.StatusUnauthorized, http.StatusNotFound):
		return ErrRefused
	case is(err, http.StatusForbidden):
		return ErrForbidden
	}
	return complete(what, err, whole)
}

// complete refuses an answer that is JSON and yet not what was asked for.
func complete(what string, err error, whole bool) error {
	if err == nil && !whole {
		return &Trouble{What: what, Err: errors.New("the answer lacks what it should have")}
	}
	return err
}

// Token asks about a token by its number. GitLab tells administrators alone;
// others get ErrHidden.
func (c *Client) Token(ctx context.Context, id int64) (t Token, err error) {
	what := fmt.Sprintf("token %d", id)
	err = c.get(ctx, what, fmt.Sprintf("/api/v4/personal_access_tokens/%d", id), c.service(), &t)
	switch {
	case is(err, http.StatusUnauthorized, http.StatusForbidden):
		return t, fmt.Errorf("%s: %w", what, ErrHidden)
	case is(err, http.StatusNotFound):
		return t, fmt.Errorf("%s: %w", what, fs.ErrNotExist)
	}
	return t, complete(what, err, t.ID == id && t.UserID > 0)
}

// Job asks about a job of a project by its number. A project that the service
// token does not see is ErrHidden.
func (c *Client) Job(ctx context.Context, project, id int64) (j Job, err error) {
	what := fmt.Sprintf("job %d", id)
	err = c.get(ctx, what, fmt.Sprintf("/api/v4/projects/%d/jobs/%d", project, id), c.service(), &j)
	if is(err, http.StatusForbidden, http.StatusNotFound) {
		return j, fmt.Errorf("%s: %w", what, ErrHidden)
	}
	if is(err, http.StatusUnauthorized) {
		return j, &Trouble{What: what, Away: true, Err: errRefusesService}
	}
	return j, complete(what, err, j.ID == id && j.Status != "")
}

// User asks about a user by the number.
func (c *Client) User(ctx context.Context, id int64) (u User, err error) {
	what := fmt.Sprintf("user %d", id)
	err = c.ask(ctx, what, fmt.Sprintf("/api/v4/users/%d", id), &u)
	return u, complete(what, err, u.ID == id && u.Username != "" && u.State != "")
}

// UserNamed asks about a user by the name, of which case does not matter.
func (c *Client) UserNamed(ctx context.Context, name string) (User, error) {
	what := "a user by name"
	var users []User
	if err := c.ask(ctx, what, "/api/v4/users?username="+url.QueryEscape(name), &users); err != nil {
		return User{}, err
	}
	for _, u := range users {
		if strings.EqualFold(u.Username, name) {
			return u, complete(what, nil, u.ID > 0 && u.State != "")
		}
	}
	return User{}, fmt.Errorf("%s: %w", what, fs.ErrNotExist)
}

// Group asks about a group by its full path, of which case does not matter. One
// that has another path by now, or that GitLab found by reading the path as a
// number, is not it.
func (c *Client) Group(ctx context.Context, path string) (g Group, err error) {
	what := "group " + path
	err = c.ask(ctx, what, "/api/v4/groups/"+url.PathEscape(path)+"?with_projects=false", &g)
	if err = complete(what, err, g.ID > 0 && g.FullPath != "" && g.Visibility != ""); err != nil {
		return g, err
	}
	if !strings.EqualFold(g.FullPath, path) {
		return g, fmt.Errorf("%s: %w", what, fs.ErrNotExist)
	}
	return g, nil
}

// GroupByID asks about a group by its number.
func (c *Client) GroupByID(ctx context.Context, id int64) (g Group, err error) {
	what := fmt.Sprintf("group %d", id)
	err = c.ask(ctx, what, fmt.Sprintf("/api/v4/groups/%d?with_projects=false", id), &g)
	return g, complete(what, err, g.ID == id && g.FullPath != "" && g.Visibility != "")
}

// GroupsPage is how many groups there are on a page of Groups.
const GroupsPage = 100

// Groups lists the groups that the service token sees, by pages from 1 on.
func (c *Client) Groups(ctx context.Context, page int) (list []Group, err error) {
	path := fmt.Sprintf("/api/v4/groups?order_by=id&per_page=%d&page=%d", GroupsPage, page)
	return list, c.ask(ctx, "the groups", path, &list)
}

// Member asks for a user's membership in a group or in one above it.
func (c *Client) Member(ctx context.Context, group, user int64) (m Member, err error) {
	what := fmt.Sprintf("member %d of group %d", user, group)
	err = c.ask(ctx, what, fmt.Sprintf("/api/v4/groups/%d/members/all/%d", group, user), &m)
	return m, complete(what, err, m.ID == user)
}

// DeployToken asks about a group's own deploy token. A group whose deploy tokens
// the service token may not see, not being a maintainer, is ErrHidden.
func (c *Client) DeployToken(ctx context.Context, group, id int64) (t DeployToken, err error) {
	what := fmt.Sprintf("deploy token %d of group %d", id, group)
	err = c.get(ctx, what, fmt.Sprintf("/api/v4/groups/%d/deploy_tokens/%d", group, id), c.service(), &t)
	switch {
	case is(err, http.StatusForbidden):
		return t, fmt.Errorf("%s: %w", what, ErrHidden)
	case is(err, http.StatusNotFound):
		return t, fmt.Errorf("%s: %w", what, fs.ErrNotExist)
	case is(err, http.StatusUnauthorized):
		return t, &Trouble{What: what, Away: true, Err: errRefusesService}
	}
	return t, complete(what, err, t.ID == id && t.Username != "")
}

// deployName is the user name that GitLab gives a deploy token if its maker does
// not, though makers may choose such a name too; one of a user cannot have a plus
// sign.
var deployName = regexp.MustCompile(`^gitlab\+deploy-token-([1-9][0-9]{0,17})$`)

// IsDeployName tells whether a user name can only be a deploy token's.
func IsDeployName(name string) bool { return deployName.MatchString(name) }

// DeployLogin logs in with a deploy token, which the API does not accept, at the
// token service of GitLab's registry, and returns the token's number. Where there
// is no registry, or the token has nothing to do there, that of GitLab's own
// dependency proxy is asked.
func (c *Client) DeployLogin(ctx context.Context, name, secret string) (id int64, err error) {
	basic := login{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+secret))}
	for _, service := range []string{"container_registry", "dependency_proxy"} {
		var answer struct {
			Token string `json:"token"`
		}
		err = c.get(ctx, "a deploy token", "/jwt/auth?service="+service, basic, &answer)
		switch {
		case err == nil:
			return deployTokenID(answer.Token)
		case is(err, http.StatusUnauthorized):
			return 0, ErrRefused
		case !is(err, http.StatusNotFound, http.StatusForbidden):
			return 0, err
		}
	}
	return 0, ErrForbidden
}

// deployTokenID finds the number in the registry's token, where it is in a token
// in the token. The token came from GitLab itself just now, so its signature is
// of no interest. The user name tells nothing, even if it has a number in it:
// makers of tokens choose it, and may choose that of another group's token.
func deployTokenID(token string) (int64, error) {
	var outer struct {
		User string `json:"user"`
	}
	var inner struct {
		Info struct {
			DeployTokenID int64 `json:"deploy_token_id"`
		} `json:"user_info"`
	}
	if claims(token, &outer) && claims(outer.User, &inner) && inner.Info.DeployTokenID > 0 {
		return inner.Info.DeployTokenID, nil
	}
	return 0, &Trouble{What: "a deploy token", Err: errors.New("GitLab does not tell its number, since its registry is off; use an access token of the group, or turn GitLab's container registry on")}
}

func claims(token string, into any) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	return err == nil && json.Unmarshal(payload, into) == nil
}
