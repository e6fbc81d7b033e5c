package credential

import (
	"context"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

// Credentials are a user name and a password.
type Credentials struct {
	// Username can contain placeholders.
	Username string `json:"username"`

	// Password must be a placeholder, such as {env.HUB_TOKEN} or
	// {file./run/secrets/hub}, because the admin API shows the configuration and
	// Caddy saves it to disk. Its value is read again when the registry refuses
	// the login.
	Password string `json:"password"`
}

func (c *Credentials) check() error {
	switch {
	case c.Username == "":
		return errors.New("the user name of the credentials is empty")
	case !parse.IsPlaceholder(c.Password):
		return errors.New("the password of the credentials must not be in the configuration, where the admin API shows it; write a placeholder such as {env.HUB_TOKEN} or {file./run/secrets/hub_token}")
	}
	return nil
}

// resolve returns the login with its placeholders replaced.
func (c *Credentials) resolve() (auth.Login, error) {
	repl := caddy.NewReplacer()
	username, err := repl.ReplaceOrErr(c.Username, true, true)
	if err != nil || username == "" {
		return auth.Login{}, errors.Join(errors.New("the user name of the credentials is empty"), err)
	}
	password, err := repl.ReplaceOrErr(c.Password, true, true)
	if err != nil || password == "" {
		return auth.Login{}, fmt.Errorf("the password placeholder %s is empty, or its file cannot be read", c.Password)
	}
	login := auth.Login{Username: username, Password: auth.Secret(password)}
	return login, login.Check()
}

func (c *Credentials) open() (Login, error) {
	first, err := c.resolve()
	if err != nil {
		return Login{}, err
	}
	again := *c // the login may outlive the configuration
	source := newRenewed(func(context.Context) (found, error) {
		login, err := again.resolve()
		// The content that is known belongs to the first user name.
		if err == nil && login.Username != first.Username {
			err = errors.New("the user name of the credentials has changed; reload the configuration")
		}
		return found{login: login}, err
	})
	source.current = found{login: first}
	return Login{Identity: first.Username, Key: key("credentials", c.Username, c.Password, first.Username, string(first.Password)), LoginSource: source.login}, nil
}
