package sitetest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// Limits that the documentation promises for logins and access tokens.
const (
	DocumentedAddressBurst = 30
	DocumentedAddressEvery = 10 * time.Second
	DocumentedAccountBurst = 20
	DocumentedRefuseFor    = time.Minute
	DocumentedTokenLife    = 90 * 24 * time.Hour
	DocumentedMakers       = 8
)

// UpstreamPassword is the password of the account "hub" at upstreams.
const UpstreamPassword = "upstream-password-that-must-not-leak"

// PasswordOf returns the password of an account in tests.
func PasswordOf(name string) string { return name + "-password-that-must-not-leak" }

var bcryptHashes sync.Map // bcrypt is slow even at its lowest cost

// Hash returns a bcrypt hash of the password.
func Hash(password string) string {
	if known, ok := bcryptHashes.Load(password); ok {
		return known.(string)
	}
	made, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		panic(err)
	}
	bcryptHashes.Store(password, string(made))
	return string(made)
}

// Users returns the lines of static users with the passwords of PasswordOf.
func Users(names ...string) string {
	var lines strings.Builder
	for _, name := range names {
		fmt.Fprintf(&lines, "user %s %s\n", name, Hash(PasswordOf(name)))
	}
	return lines.String()
}

// Private returns the lines of a private group with the given members.
func Private(path string, members ...string) string {
	if len(members) == 0 {
		return "group " + path + "\n"
	}
	return "group " + path + " {\n members " + strings.Join(members, " ") + "\n}\n"
}

// Visible returns the lines of a group with a visibility and no members.
func Visible(path string, visibility directory.Visibility) string {
	return "group " + path + " {\n visibility " + string(visibility) + "\n}\n"
}

// Hub returns the lines of the upstream docker.io at a test registry, with more
// lines in its block.
func Hub(registry *registrytest.Registry, lines ...string) string {
	return UpstreamAt("docker.io", registry.URL(), lines...)
}

// UpstreamAt returns the lines of an upstream. Unless a line says otherwise, clients
// are patient, so that a busy machine does not change what they get.
func UpstreamAt(name, endpoint string, lines ...string) string {
	return "upstream " + name + " {\n endpoint " + endpoint + "\n allow_private\n patience 1m\n" + strings.Join(lines, "\n") + "\n}\n"
}

// HubCredentials returns the line with the credentials of the account "hub",
// and sets its password in the environment.
func HubCredentials(t *testing.T) string {
	t.Setenv("HUB_PASSWORD", UpstreamPassword)
	return "credentials hub {env.HUB_PASSWORD}"
}

// Random returns content that cannot be compressed and depends on the seed.
func Random(seed byte, size int) []byte {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(content) // never fails
	return content
}

// JSONWithoutField removes a field of the handler from a configuration.
func JSONWithoutField(t *testing.T, config []byte, field string) []byte {
	t.Helper()
	var whole any
	if err := json.Unmarshal(config, &whole); err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			if v["handler"] == "dependency_proxy" {
				delete(v, field)
			}
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(whole)
	out, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// AcmeRoles is the group acme with an account for each role.
const AcmeRoles = "group acme {\n members alice\n maintainers bob\n owners carol\n}\n"

// TrustedProxies makes the site trust X-Forwarded-For and the like from the
// clients of the tests.
const TrustedProxies = "servers {\n trusted_proxies static 127.0.0.1/32\n}"

// UsersText returns a users file with the given accounts.
func UsersText(names ...string) string {
	var text strings.Builder
	for _, name := range names {
		text.WriteString(name + ":" + Hash(PasswordOf(name)) + "\n")
	}
	return text.String()
}

// Backdate sets the time of a file into the past, so that it counts as
// completely written.
func Backdate(t *testing.T, name string) {
	t.Helper()
	past := time.Now().Add(-time.Minute)
	if err := os.Chtimes(name, past, past); err != nil {
		t.Fatal(err)
	}
}

// WriteFile writes a file and fails the test on an error.
func WriteFile(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// BlueUpstream is the name of a second upstream.
const BlueUpstream = "blue.example"
