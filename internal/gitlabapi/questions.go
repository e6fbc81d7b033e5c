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

// Token is a personal access token, or an access token of a group, whose user is a bot
// ("Personal access tokens API").
type Token struct {
	ID     int64    `json:"id"`
	Name   string   `json:"name"`
	UserID int64    `json:"user_id"`
	Scopes []string `json:"scopes"`

	// Active is false if the token is revoked or has expired.
	Active bool `json:"active"`
	// ExpiresAt is the date on which the token expires, as in 2026-01-31, or empty.
	ExpiresAt string `json:"expires_at"`
}

// User is an account ("Users API").
type User struct {
	ID       int64  `json:"id"`
	Username string `json:"username"`
	// State is "active", or the reason why the user may not log in.
	State string `json:"state"`
	// Bot marks a user that GitLab has created for an access token of a group.
	Bot bool `json:"bot"`
	// External users do not see internal groups. GitLab reports this only to
	// administrators; it is false for all others.
	External bool `json:"external"`
}

// Job is a CI job ("Jobs API").
type Job struct {
	ID       int64  `json:"id"`
	Status   string `json:"status"`
	User     User   `json:"user"`
	Pipeline struct {
		ProjectID int64 `json:"project_id"`
	} `json:"pipeline"`
}

// Running reports whether the token of the job is still valid.
func (j Job) Running() bool { return j.Status == "running" || j.Status == "canceling" }

// Group is a group or a subgroup ("Groups API").
type Group struct {
	ID         int64  `json:"id"`
	FullPath   string `json:"full_path"`
	Visibility string `json:"visibility"`
}

// Member is a direct or inherited membership ("Group members API").
type Member struct {
	ID          int64  `json:"id"`
	AccessLevel int    `json:"access_level"`
	ExpiresAt   string `json:"expires_at"` // a date, or empty
	// State is "awaiting" for a membership that is not active yet. It is empty in
	// editions of GitLab without this state.
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

// MayPull reports whether a token with these scopes may pull through GitLab's own
// dependency proxy ("Authenticate with the dependency proxy").
func MayPull(scopes []string) bool {
	has := func(scope string) bool { return slices.Contains(scopes, scope) }
	return has("api") || has("read_registry") && (has("write_registry") || has("read_virtual_registry")) ||
		has("write_virtual_registry") && (has("write_registry") || has("read_virtual_registry"))
}

// Passed reports whether a date, as GitLab writes it, has begun. It uses UTC, although
// GitLab uses its own time zone. An empty date never begins.
func Passed(date string, now time.Time) bool {
	day, _, _ := strings.Cut(date, "T")
	return day != "" && day <= now.UTC().Format(time.DateOnly)
}

// TokenOf returns the access token with a secret. It asks with that token, for which any
// scope is sufficient. The error is ErrRefused if the token is invalid.
func (c *Client) TokenOf(ctx context.Context, secret string) (t Token, err error) {
	err = c.get(ctx, "a token", "/api/v4/personal_access_tokens/self", login{"PRIVATE-TOKEN", secret}, &t)
	return t, ofUser("a token", err, t.ID > 0 && t.UserID > 0)
}

// JobOf returns the job of a job token. It asks with that token, which is valid only while
// the job runs. The error is ErrRefused if the token is invalid.
func (c *Client) JobOf(ctx context.Context, secret string) (j Job, err error) {
	err = c.get(ctx, "a job", "/api/v4/job", login{"JOB-TOKEN", secret}, &j)
	return j, ofUser("a job", err, j.ID > 0 && j.User.ID > 0 && j.Pipeline.ProjectID > 0)
}

// ofUser returns the error of a question that was asked with the credential of a user.
func ofUser(what string, err error, whole bool) error {
	switch {
	case is(err, http.StatusUnauthorized, http.StatusNotFound):
		return ErrRefused
	case is(err, http.StatusForbidden):
		return ErrForbidden
	}
	return complete(what, err, whole)
}

// complete returns an error if a response is JSON but lacks required fields.
func complete(what string, err error, whole bool) error {
	if err == nil && !whole {
		return &Trouble{What: what, Err: errors.New("the response lacks required fields")}
	}
	return err
}

// Token returns the access token with an id. The error is ErrHidden unless the service
// token belongs to an administrator.
func (c *Client) Token(ctx context.Context, id int64) (t Token, err error) {
	what := fmt.Sprintf("token %d", id)
	err = c.ask(ctx, what, fmt.Sprintf("/api/v4/personal_access_tokens/%d", id), &t, http.StatusUnauthorized, http.StatusForbidden)
	return t, complete(what, err, t.ID == id && t.UserID > 0)
}

// Job returns a job of a project. The error is ErrHidden if the service token cannot see
// the project.
func (c *Client) Job(ctx context.Context, project, id int64) (j Job, err error) {
	what := fmt.Sprintf("job %d", id)
	err = c.ask(ctx, what, fmt.Sprintf("/api/v4/projects/%d/jobs/%d", project, id), &j, http.StatusForbidden, http.StatusNotFound)
	return j, complete(what, err, j.ID == id && j.Status != "")
}

// User returns the user with an id.
func (c *Client) User(ctx context.Context, id int64) (u User, err error) {
	what := fmt.Sprintf("user %d", id)
	err = c.ask(ctx, what, fmt.Sprintf("/api/v4/users/%d", id), &u)
	return u, complete(what, err, u.ID == id && u.Username != "" && u.State != "")
}

// UserNamed returns the user with a name, compared without regard to case.
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

// Group returns the group with a full path, compared without regard to case. The error is
// fs.ErrNotExist too if GitLab returns a group with another path: it follows renames, and
// takes a numeric path for an id.
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

// GroupByID returns the group with an id.
func (c *Client) GroupByID(ctx context.Context, id int64) (g Group, err error) {
	what := fmt.Sprintf("group %d", id)
	err = c.ask(ctx, what, fmt.Sprintf("/api/v4/groups/%d?with_projects=false", id), &g)
	return g, complete(what, err, g.ID == id && g.FullPath != "" && g.Visibility != "")
}

// GroupsPage is the number of groups on a full page of Groups.
const GroupsPage = 100

// Groups returns a page of the groups that the service token can see. The first page is 1.
func (c *Client) Groups(ctx context.Context, page int) (list []Group, err error) {
	path := fmt.Sprintf("/api/v4/groups?order_by=id&per_page=%d&page=%d", GroupsPage, page)
	return list, c.ask(ctx, "the groups", path, &list)
}

// Member returns the membership of a user in a group, or in a group above it.
func (c *Client) Member(ctx context.Context, group, user int64) (m Member, err error) {
	what := fmt.Sprintf("member %d of group %d", user, group)
	err = c.ask(ctx, what, fmt.Sprintf("/api/v4/groups/%d/members/all/%d", group, user), &m)
	return m, complete(what, err, m.ID == user)
}

// DeployToken returns a deploy token of a group. The error is ErrHidden if the service
// token may not see the deploy tokens of the group, for which it must be a maintainer.
func (c *Client) DeployToken(ctx context.Context, group, id int64) (t DeployToken, err error) {
	what := fmt.Sprintf("deploy token %d of group %d", id, group)
	err = c.ask(ctx, what, fmt.Sprintf("/api/v4/groups/%d/deploy_tokens/%d", group, id), &t, http.StatusForbidden)
	return t, complete(what, err, t.ID == id && t.Username != "")
}

// deployName matches the user name that GitLab generates for a deploy token. A deploy
// token may have been given such a name, or any other; the name of a user cannot contain a
// plus sign.
var deployName = regexp.MustCompile(`^gitlab\+deploy-token-([1-9][0-9]{0,17})$`)

// IsDeployName reports whether a user name can only be that of a deploy token.
func IsDeployName(name string) bool { return deployName.MatchString(name) }

// DeployLogin logs in with a deploy token at the token service of GitLab's registry, since
// the API does not accept deploy tokens, and returns the id of the token. If there is no
// registry, or the token may not use it, it asks the token service of GitLab's own
// dependency proxy.
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

// deployTokenID returns the id of a deploy token, which is in a token within the token of
// the registry. GitLab itself has just sent that token, so its signature need not be
// checked. The user name does not tell the id, even if it contains a number: it can be
// chosen, and may be the name of another group's token.
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
	return 0, &Trouble{What: "a deploy token", Err: errors.New("GitLab does not report its id, since the container registry is off; use an access token of the group, or turn the container registry of GitLab on")}
}

// claims reads the payload of a JSON Web Token without verifying it.
func claims(token string, into any) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	return err == nil && json.Unmarshal(payload, into) == nil
}
