package credential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

// helperAge is how long a login of a credential helper is used. The protocol does
// not tell when a login expires. Helpers that obtain logins from a cloud cache them
// themselves.
const helperAge = 15 * time.Minute

// helperName is the grammar of the name of a credential helper.
var helperName = regexp.MustCompile(`^[a-z0-9-]+$`)

// Helper is a credential helper of Docker: a program docker-credential-NAME in the
// PATH.
type Helper struct {
	// Name is the name of the helper without docker-credential-, such as
	// ecr-login, gcr, acr-env or pass. It consists of a-z, 0-9 and hyphens.
	Name string `json:"name"`

	// Env are the names of the environment variables that the helper receives, in
	// addition to PATH and HOME.
	Env []string `json:"env,omitempty"`
}

func (h *Helper) check() error {
	if !helperName.MatchString(h.Name) {
		return fmt.Errorf("invalid credential helper '%s'; write the name after docker-credential-, as in `credential_helper ecr-login`", h.Name)
	}
	return checkEnv(h.Env)
}

func (h *Helper) open(server string) (Login, error) {
	path, err := exec.LookPath("docker-credential-" + h.Name) // which accepts no relative path
	if err != nil {
		return Login{}, fmt.Errorf("credential_helper %s: there is no program docker-credential-%s in the PATH of Caddy; install it", h.Name, h.Name)
	}
	run := &program{path: path, env: slices.Clone(h.Env)}
	source := newRenewed(func(ctx context.Context) (found, error) { return askHelper(ctx, run, server) })
	id := identity("credential_helper", append([]string{h.Name}, h.Env...)...)
	return Login{Identity: id, Key: key(id, path, server), LoginSource: source.login}, nil
}

// askHelper asks a credential helper for the login at a server.
func askHelper(ctx context.Context, run *program, server string) (found, error) {
	asked := &helperRun{ctx: ctx, program: *run}
	got, err := client.Get(func(args ...string) client.Program {
		asked.program.args = args
		return asked
	}, server)
	switch {
	case credentials.IsErrCredentialsNotFound(err):
		return found{}, fmt.Errorf("the credential helper has no login for %s; log in with the account of Caddy", server)
	case asked.err != nil:
		return found{}, asked.err // the error of Get contains the output
	case err != nil:
		return found{}, errors.New("the credential helper did not print a login")
	}
	return found{
		login:   auth.Login{Username: got.Username, Password: auth.Secret(got.Secret)},
		renewAt: time.Now().Add(helperAge),
	}, nil
}

// helperRun implements [client.Program] within the limits of a program.
type helperRun struct {
	ctx     context.Context
	program program
	input   io.Reader
	err     error // of Output
}

// Input implements [client.Program].
func (r *helperRun) Input(in io.Reader) { r.input = in }

// Output implements [client.Program].
func (r *helperRun) Output() ([]byte, error) {
	var output []byte
	output, r.err = r.program.run(r.ctx, r.input)
	return output, r.err
}

// hubServer is what Docker calls the server of Docker Hub.
const hubServer = "https://index.docker.io/v1/"

// serverURL returns what Docker calls the server at an endpoint in its
// configuration and for credential helpers: HOST or HOST:PORT, except for Docker
// Hub.
func serverURL(endpoint *url.URL) string {
	return serverOf(endpoint.Host)
}

func serverOf(host string) string {
	switch host = strings.ToLower(host); host {
	case "docker.io", "index.docker.io", "registry-1.docker.io":
		return hubServer
	}
	return host
}
