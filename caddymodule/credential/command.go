package credential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

// Exec is a command that prints a login as JSON:
//
//	{"username": "robot", "password": "…", "expires": "2026-01-02T15:04:05Z"}
//
// The time is optional, as in RFC 3339. The login is renewed after 80% of the time
// until then, and when the registry refuses it.
type Exec struct {
	// Command is the absolute path of the program and its arguments. There is no
	// shell, and placeholders are not permitted.
	Command []string `json:"command"`

	// Env are the names of the environment variables that the command receives,
	// in addition to PATH and HOME.
	Env []string `json:"env,omitempty"`
}

func (e *Exec) check() error {
	if len(e.Command) == 0 || e.Command[0] == "" {
		return errors.New("credential_exec has no command; write `credential_exec /usr/local/bin/COMMAND ARGUMENT...`")
	}
	if err := checkPath("credential_exec", e.Command[0]); err != nil {
		return err
	}
	if slices.ContainsFunc(e.Command[1:], placeholder.MatchString) {
		return errors.New("credential_exec: the arguments must not contain placeholders, since the list of processes shows them; pass an environment variable to the command by an `env` line")
	}
	return checkEnv(e.Env)
}

func (e *Exec) open() (Login, error) {
	if _, err := exec.LookPath(e.Command[0]); err != nil {
		return Login{}, fmt.Errorf("credential_exec: %s is not a program that Caddy can run", e.Command[0])
	}
	run := &program{path: e.Command[0], args: slices.Clone(e.Command[1:]), env: slices.Clone(e.Env)}
	source := newRenewed(func(ctx context.Context) (found, error) {
		output, err := run.run(ctx, nil)
		if err != nil {
			return found{}, err
		}
		return parseLogin(output, time.Now())
	})
	id := identity("credential_exec", fmt.Sprintf("%q", e.Command), fmt.Sprintf("%q", e.Env))
	return Login{Identity: id, Key: key(id), LoginSource: source.login}, nil
}

// parseLogin parses what a command prints. Errors do not repeat it.
func parseLogin(output []byte, now time.Time) (found, error) {
	var printed struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Expires  string `json:"expires"`
	}
	if json.Unmarshal(output, &printed) != nil {
		return found{}, errors.New(`the command did not print a login; it must print JSON such as {"username":"robot","password":"..."}`)
	}
	f := found{login: auth.Login{Username: printed.Username, Password: auth.Secret(printed.Password)}}
	if printed.Expires == "" {
		return f, nil
	}
	expires, err := time.Parse(time.RFC3339, printed.Expires)
	switch {
	case err != nil:
		return found{}, errors.New(`the command printed a wrong "expires"; it must print a time such as "2026-01-02T15:04:05Z"`)
	case !now.Before(expires):
		return found{}, errors.New("the command printed a login that has expired")
	}
	f.expires, f.renewAt = expires, now.Add(expires.Sub(now)/5*4) // divided first: it may be the longest duration
	return f, nil
}
