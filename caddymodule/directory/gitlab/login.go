package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabapi"
)

// kind is a kind of credential of GitLab.
type kind string

const (
	accessToken kind = "token" // of a user, or of a group's bot
	jobToken    kind = "job"
	deployToken kind = "deploy"
)

// credential identifies the credential with which an account has logged in, without the
// secret. It is the facts of the account. Without a kind it is a user that was looked up
// by name.
type credential struct {
	At   string `json:"at,omitempty"` // the instance
	Kind kind   `json:"kind,omitempty"`
	ID   int64  `json:"id,omitempty"`   // of the token or of the job
	User int64  `json:"user,omitempty"` // the owner
	In   int64  `json:"in,omitempty"`   // the job's project, the deploy token's group

	// Seen is the time at which GitLab accepted it, in Unix seconds. Expires is the
	// date from which it is no longer valid.
	Seen    int64  `json:"seen,omitempty"`
	Expires string `json:"expires,omitempty"`

	PullOnly bool `json:"pull_only,omitempty"`
}

// unseenFor is how long a credential is valid after a login if the service token may not
// ask about it. It is the default lifetime of a token of this site.
const unseenFor = 15 * time.Minute

func (c credential) facts() string {
	text, err := json.Marshal(c)
	if err != nil {
		panic(err) // numbers and strings always marshal
	}
	return string(text)
}

func parseCredential(facts string) (c credential, err error) {
	return c, json.Unmarshal([]byte(facts), &c)
}

// jobName is the user name for job tokens.
const jobName = "gitlab-ci-token"

// kindOf returns the kind of credential that a login has by its form, or "" if it may be a
// password. It also reports whether the credential can belong to no other service.
func (d *Directory) kindOf(login directory.Login) (kind kind, surely bool) {
	if !directory.HasTokenForm(login.Password) {
		return "", false
	}
	rest := login.Password
	if d.TokenPrefix != "" {
		rest, surely = strings.CutPrefix(rest, d.TokenPrefix)
	}
	switch {
	case login.Name == jobName:
		return jobToken, surely
	case strings.HasPrefix(rest, "glcbt-"):
		return "", false // a job token with a wrong name
	case strings.HasPrefix(rest, "gldt-"), gitlabapi.IsDeployName(login.Name):
		return deployToken, surely
	case surely, strings.HasPrefix(rest, "glpat-"):
		return accessToken, surely
	}
	return "", false
}

// IsToken implements [directory.TokenDirectory].
func (d *Directory) IsToken(name, password string) bool {
	kind, surely := d.kindOf(directory.Login{Name: name, Password: password})
	return surely || kind == jobToken
}

// Authenticate implements [directory.Directory]. A login is remembered like any other
// answer, by a keyed digest.
func (d *Directory) Authenticate(ctx context.Context, login directory.Login) (directory.Account, error) {
	kind, surely := d.kindOf(login)
	if kind == "" {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	among := ""
	if kind == deployToken {
		among = fmt.Sprintf("%q", d.Groups) // its group is searched among these
	}
	logins, key := d.answers.logins[kind], password.Digest("gitlab", string(kind), login.Name, login.Password, among)
	last, known := logins.Peek(key)
	known = known && last.Err == nil && time.Since(last.At) < time.Duration(d.Grace)
	hints := login.Groups
	c, err := logins.Get(ctx, key, func(ctx context.Context) (credential, error) {
		switch kind {
		case jobToken:
			return d.checkJob(ctx, login)
		case deployToken:
			return d.checkDeploy(ctx, login, hints, known)
		}
		return d.checkToken(ctx, login)
	})
	var account directory.Account
	if err == nil {
		account, err = d.account(ctx, c)
	}
	switch {
	case errors.Is(err, gitlabapi.ErrForbidden):
		return directory.Account{}, fmt.Errorf("%w: %w", directory.ErrBlocked, err)
	case errors.Is(err, gitlabapi.ErrRefused), errors.Is(err, directory.ErrUnknownAccount):
		// Tokens of another instance look alike, so that one may know it.
		if surely {
			return directory.Account{}, fmt.Errorf("%w: %w", directory.ErrWrongPassword, gitlabapi.ErrRefused)
		}
		return directory.Account{}, fmt.Errorf("%w: %w", directory.ErrUnknownAccount, gitlabapi.ErrRefused)
	}
	return account, err
}

// Feign implements [directory.Costly]. GitLab is asked the same about a login whatever the
// name is, so it is enough to know whether it answers. A deploy token is counted as if it
// were sent to GitLab: otherwise the rest of the budget of an address would reveal which
// names an earlier directory knows.
func (d *Directory) Feign(ctx context.Context, login directory.Login) error {
	kind, _ := d.kindOf(login)
	if kind == "" {
		return nil
	}
	key := password.Digest("gitlab nobody", string(kind), login.Name, login.Password)
	_, err := d.answers.logins[kind].Get(ctx, key, func(ctx context.Context) (none credential, err error) {
		if kind == deployToken {
			if _, err := d.deploys.take(login); err != nil {
				return none, err
			}
		}
		if err := d.client.Reach(ctx); err != nil {
			return none, err
		}
		return none, gitlabapi.ErrRefused
	})
	if errors.Is(err, gitlabapi.ErrRefused) {
		return nil
	}
	return err
}

// Lookup implements [directory.Directory].
func (d *Directory) Lookup(ctx context.Context, name, facts string) (directory.Account, error) {
	if facts != "" {
		c, err := parseCredential(facts)
		if err != nil || c.At != d.name {
			return directory.Account{}, fmt.Errorf("%w: it belongs to another instance", directory.ErrUnknownAccount)
		}
		return d.account(ctx, c)
	}
	if !userShape.MatchString(name) {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	user, err := d.answers.names.Get(ctx, strings.ToLower(name), func(ctx context.Context) (gitlabapi.User, error) {
		return d.client.UserNamed(ctx, name)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	if err != nil {
		return directory.Account{}, err
	}
	return d.account(ctx, credential{User: user.ID})
}

// userShape matches the user names of GitLab.
var userShape = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,255}$`)

// account returns the account of a credential, if both are still valid.
func (d *Directory) account(ctx context.Context, c credential) (directory.Account, error) {
	c.At = d.name
	if c.Kind == deployToken {
		return d.deployAccount(ctx, c)
	}
	user, err := d.user(ctx, c.User)
	if err != nil {
		return directory.Account{}, err
	}
	if err := d.stillGood(ctx, c); err != nil {
		return directory.Account{}, err
	}
	return directory.Account{Name: user.Username, Facts: c.facts(), PullOnly: c.PullOnly, External: user.External}, nil
}

// user returns an active user.
func (d *Directory) user(ctx context.Context, id int64) (gitlabapi.User, error) {
	user, err := d.answers.users.Get(ctx, fmt.Sprint(id), func(ctx context.Context) (gitlabapi.User, error) {
		return d.client.User(ctx, id)
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return user, directory.ErrUnknownAccount
	case err == nil && user.State != "active":
		return user, fmt.Errorf("%w: GitLab says %q", directory.ErrBlocked, user.State)
	}
	return user, err
}

// stillGood reports why a credential is not valid: the token is revoked or has expired,
// or the job has ended.
func (d *Directory) stillGood(ctx context.Context, c credential) (err error) {
	good := false
	switch c.Kind {
	case "":
		good = true
	case accessToken:
		var token gitlabapi.Token
		token, err = d.answers.tokens.Get(ctx, fmt.Sprint(c.ID), func(ctx context.Context) (gitlabapi.Token, error) {
			return d.client.Token(ctx, c.ID)
		})
		good = token.Active && token.UserID == c.User
	case jobToken:
		var job gitlabapi.Job
		job, err = d.answers.jobs.Get(ctx, fmt.Sprintf("%d/%d", c.In, c.ID), func(ctx context.Context) (gitlabapi.Job, error) {
			return d.client.Job(ctx, c.In, c.ID)
		})
		good = job.Running() && job.User.ID == c.User
	}
	if errors.Is(err, gitlabapi.ErrHidden) {
		err, good = nil, time.Since(time.Unix(c.Seen, 0)) < unseenFor
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return directory.ErrUnknownAccount
	case err != nil:
		return err
	case !good, gitlabapi.Passed(c.Expires, time.Now()):
		return directory.ErrUnknownAccount
	}
	return nil
}

// checkToken checks a login with an access token. The user name must be that of its user;
// for a bot, whose name is generated, the name of the token is accepted too.
func (d *Directory) checkToken(ctx context.Context, login directory.Login) (c credential, err error) {
	seen := time.Now()
	token, err := d.client.TokenOf(ctx, login.Password)
	switch {
	case err != nil:
		return c, err
	case !token.Active:
		return c, gitlabapi.ErrRefused
	case !gitlabapi.MayPull(token.Scopes):
		return c, errScopes
	}
	user, err := d.user(ctx, token.UserID)
	if err != nil {
		return c, err
	}
	if !strings.EqualFold(login.Name, user.Username) && (!user.Bot || !strings.EqualFold(login.Name, token.Name)) {
		return c, fmt.Errorf("%w: the token belongs to another user", directory.ErrWrongPassword)
	}
	pullOnly := true
	for _, scope := range token.Scopes {
		pullOnly = pullOnly && scope != "api"
	}
	return credential{
		Kind: accessToken, ID: token.ID, User: token.UserID, Seen: seen.Unix(), Expires: token.ExpiresAt, PullOnly: pullOnly,
	}, nil
}

var errScopes = fmt.Errorf("%w: the token lacks a required scope: api, or read_registry and one of write_registry and read_virtual_registry", directory.ErrWrongPassword)

// checkJob checks a login with a CI job token.
func (d *Directory) checkJob(ctx context.Context, login directory.Login) (c credential, err error) {
	seen := time.Now()
	job, err := d.client.JobOf(ctx, login.Password)
	if err != nil {
		return c, err
	}
	return credential{
		Kind: jobToken, ID: job.ID, User: job.User.ID, In: job.Pipeline.ProjectID, Seen: seen.Unix(), PullOnly: true,
	}, nil
}
