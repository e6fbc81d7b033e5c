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

// kind is a kind of credential that GitLab gives out.
type kind string

const (
	accessToken kind = "token" // of a user, or of a group's bot
	jobToken    kind = "job"
	deployToken kind = "deploy"
)

// credential is what an account was recognised by, without the secret. It
// is an account's facts. Without a kind it is a user whom somebody has named.
type credential struct {
	At   string `json:"at,omitempty"` // the instance
	Kind kind   `json:"kind,omitempty"`
	ID   int64  `json:"id,omitempty"`   // of the token or of the job
	User int64  `json:"user,omitempty"` // whose it is
	In   int64  `json:"in,omitempty"`   // the job's project, the deploy token's group

	// Seen is when GitLab accepted it, in Unix seconds, and Expires the day from
	// which it is not valid any more.
	Seen    int64  `json:"seen,omitempty"`
	Expires string `json:"expires,omitempty"`

	PullOnly bool `json:"pull_only,omitempty"`
}

// unseenFor is how long a credential is believed that the service token may not
// ask about: as long as a token of this site's lives by default. After that it
// has to be shown again.
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

// jobName is what a job token is used with.
const jobName = "gitlab-ci-token"

// kindOf tells what kind of credential a login is by its shape alone, and whether
// it can be nobody else's. It is "" for what may be a password.
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
		return "", false // with a wrong name
	case strings.HasPrefix(rest, "gldt-"), gitlabapi.IsDeployName(login.Name):
		return deployToken, surely
	case surely, strings.HasPrefix(rest, "glpat-"):
		return accessToken, surely
	}
	return "", false
}

// IsToken implements [Tokens].
func (d *Directory) IsToken(name, password string) bool {
	kind, surely := d.kindOf(directory.Login{Name: name, Password: password})
	return surely || kind == jobToken
}

// Authenticate implements [Directory]. The login itself is remembered as long as
// any answer, by a keyed digest.
func (d *Directory) Authenticate(ctx context.Context, login directory.Login) (directory.Account, error) {
	kind, surely := d.kindOf(login)
	if kind == "" {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	among := ""
	if kind == deployToken {
		among = fmt.Sprintf("%q", d.Groups) // where its group is looked for
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
		// Instances make tokens that look alike, so another one may know it.
		if surely {
			return directory.Account{}, fmt.Errorf("%w: %w", directory.ErrWrongPassword, gitlabapi.ErrRefused)
		}
		return directory.Account{}, fmt.Errorf("%w: %w", directory.ErrUnknownAccount, gitlabapi.ErrRefused)
	}
	return account, err
}

// Feign implements [Costly]. What GitLab is asked about a login is the
// same for all names, so it is enough to see whether it answers. A deploy token
// takes a place as if it were shown: otherwise an address had places left after
// some guesses at a name that a directory before this one knows, and none else.
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

// Lookup implements [Directory].
func (d *Directory) Lookup(ctx context.Context, name, facts string) (directory.Account, error) {
	if facts != "" {
		c, err := parseCredential(facts)
		if err != nil || c.At != d.name {
			return directory.Account{}, fmt.Errorf("%w: it is known at another instance", directory.ErrUnknownAccount)
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

// userShape is that of GitLab's user names.
var userShape = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,255}$`)

// account is whose a credential is, if both are still good.
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

// user asks for an active user.
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

// stillGood asks whether a token is neither revoked nor expired, or a job runs.
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

// checkToken checks a login with an access token. The user name has to be that of
// its user; for a bot, whose name nobody can remember, the token's name does too.
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
		return c, fmt.Errorf("%w: it is the token of another user", directory.ErrWrongPassword)
	}
	pullOnly := true
	for _, scope := range token.Scopes {
		pullOnly = pullOnly && scope != "api"
	}
	return credential{
		Kind: accessToken, ID: token.ID, User: token.UserID, Seen: seen.Unix(), Expires: token.ExpiresAt, PullOnly: pullOnly,
	}, nil
}

var errScopes = fmt.Errorf("%w: the token has not the scopes that it takes: api, or read_registry and one of write_registry and read_virtual_registry", directory.ErrWrongPassword)

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
