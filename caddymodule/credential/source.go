package credential

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

// Source says where the login at an upstream comes from. At most one of its fields
// is set. Without any, pulls are anonymous.
type Source struct {
	// Credentials are a user name and a password.
	Credentials *Credentials `json:"credentials,omitempty"`

	// CredentialHelper is a credential helper of Docker.
	CredentialHelper *Helper `json:"credential_helper,omitempty"`

	// CredentialExec is a command that prints the login.
	CredentialExec *Exec `json:"credential_exec,omitempty"`

	// DockerConfig is the absolute path of a file that `docker login` has
	// written. Its auths must contain a login for the endpoint of the upstream.
	// The file is read again when the registry refuses the login.
	DockerConfig string `json:"docker_config,omitempty"`
}

// Login is an opened [Source].
type Login struct {
	// Identity identifies the configured account without its secret: content
	// that one identity may read is not served to another. It is the user name;
	// for programs and files it is how they are configured. It is "" for
	// anonymous pulls.
	Identity string

	// Key is equal for logins that can share a LoginSource. It is a hash that
	// depends on the secrets of the configuration.
	Key string

	// LoginSource returns the login. It is nil for anonymous pulls.
	LoginSource auth.Source
}

// errSeveral is the error of a source with more than one field.
var errSeveral = errors.New("the login is set twice; write one of credentials, credential_helper, credential_exec and docker_config")

// IsConfigured reports whether the source has a login.
func (s *Source) IsConfigured() bool { return *s != Source{} }

// Check returns an error if the source is not valid. It reads neither files nor the
// environment.
func (s *Source) Check() error {
	set := []bool{s.Credentials != nil, s.CredentialHelper != nil, s.CredentialExec != nil, s.DockerConfig != ""}
	if first := slices.Index(set, true); first >= 0 && slices.Contains(set[first+1:], true) {
		return errSeveral
	}
	switch {
	case s.Credentials != nil:
		return s.Credentials.check()
	case s.CredentialHelper != nil:
		return s.CredentialHelper.check()
	case s.CredentialExec != nil:
		return s.CredentialExec.check()
	case s.DockerConfig != "":
		return checkPath("docker_config", s.DockerConfig)
	}
	return nil
}

// Open returns the login at the registry with an endpoint. It fails if a
// placeholder or a file has no login, or if a program does not exist. It runs no
// program. Errors do not contain secrets.
func (s *Source) Open(endpoint *url.URL) (Login, error) {
	server := serverURL(endpoint)
	switch {
	case s.Credentials != nil:
		return s.Credentials.open()
	case s.CredentialHelper != nil:
		return s.CredentialHelper.open(server)
	case s.CredentialExec != nil:
		return s.CredentialExec.open()
	case s.DockerConfig != "":
		return openDockerConfig(s.DockerConfig, server)
	}
	return Login{Key: key()}, nil
}

// identity returns the identity of a login that has no configured user name. No
// user name equals it.
func identity(kind string, values ...string) string {
	return fmt.Sprintf("\x00%s %q", kind, values)
}

// key returns a hash of the values.
func key(values ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", values))
	return hex.EncodeToString(sum[:])
}
