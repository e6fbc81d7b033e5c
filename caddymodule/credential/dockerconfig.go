package credential

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

// maxDockerConfig limits the size of a configuration file of Docker in bytes.
const maxDockerConfig = 1 << 20

// dockerConfig is what matters here of a configuration file of Docker.
type dockerConfig struct {
	Auths       map[string]dockerAuth `json:"auths"`
	CredsStore  string                `json:"credsStore"`
	CredHelpers map[string]string     `json:"credHelpers"`
}

// dockerAuth is a login in a configuration file of Docker.
type dockerAuth struct {
	Auth          string `json:"auth"` // base64 of USER:PASSWORD
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
}

func openDockerConfig(path, server string) (Login, error) {
	first, err := readDockerConfig(path, server)
	if err != nil {
		return Login{}, err
	}
	source := newRenewed(func(context.Context) (found, error) {
		login, err := readDockerConfig(path, server)
		return found{login: login}, err
	})
	source.current = found{login: first}
	id := identity("docker_config", path)
	return Login{Identity: id, Key: key(id, server, first.Username, string(first.Password)), LoginSource: source.login}, nil
}

// readDockerConfig returns the login at a server from a configuration file of
// Docker. Errors do not repeat its content.
func readDockerConfig(path, server string) (auth.Login, error) {
	content, err := readFile(path, maxDockerConfig)
	if err != nil {
		return auth.Login{}, fmt.Errorf("docker_config: %w", err)
	}
	var config dockerConfig
	if json.Unmarshal(content, &config) != nil {
		return auth.Login{}, fmt.Errorf("docker_config %s is not a configuration file of Docker", path)
	}
	login, err := config.login(server)
	if err != nil {
		return auth.Login{}, fmt.Errorf("docker_config %s: %w", path, err)
	}
	return login, nil
}

// readFile reads a regular file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path) // before opening, which would wait for the writer of a pipe
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return content, err
}

// login returns the login at a server.
func (c *dockerConfig) login(server string) (auth.Login, error) {
	for _, name := range slices.Sorted(maps.Keys(c.CredHelpers)) {
		if serverOfKey(name) == server {
			return auth.Login{}, fmt.Errorf("the login for %s is in a credential helper; write `credential_helper %s` instead", server, c.CredHelpers[name])
		}
	}
	entry, ok := c.Auths[server]
	if !ok {
		for _, name := range slices.Sorted(maps.Keys(c.Auths)) {
			if !ok && serverOfKey(name) == server {
				entry, ok = c.Auths[name], true
			}
		}
	}
	if entry == (dockerAuth{}) && c.CredsStore != "" {
		return auth.Login{}, fmt.Errorf("the login for %s is in a credential store; write `credential_helper %s` instead", server, c.CredsStore)
	}
	if !ok {
		return auth.Login{}, fmt.Errorf("auths has no login for %s; run `docker login` for it, or remove the line", server)
	}
	login, err := entry.login()
	if err != nil {
		return auth.Login{}, fmt.Errorf("the login for %s: %w", server, err)
	}
	return login, nil
}

func (a dockerAuth) login() (auth.Login, error) {
	if a.IdentityToken != "" {
		return auth.Login{Username: auth.IdentityUser, Password: auth.Secret(a.IdentityToken)}, nil
	}
	if a.Auth != "" {
		decoded, err := base64.StdEncoding.DecodeString(a.Auth)
		username, password, ok := bytes.Cut(decoded, []byte(":"))
		if err != nil || !ok {
			return auth.Login{}, errors.New("auth is not the base64 form of USER:PASSWORD")
		}
		a.Username, a.Password = string(username), string(bytes.Trim(password, "\x00")) // as Docker does
	}
	login := auth.Login{Username: a.Username, Password: auth.Secret(a.Password)}
	return login, login.Check()
}

// serverOfKey returns the server that a key of auths or credHelpers stands for, or ""
// if it stands for a part of a registry or for something else. Old versions of
// Docker wrote URLs with a path.
func serverOfKey(name string) string {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "https://"), "http://")
	host, path, _ := strings.Cut(name, "/")
	switch strings.TrimSuffix(path, "/") {
	case "", "v1", "v2":
		return serverOf(host)
	}
	return ""
}
