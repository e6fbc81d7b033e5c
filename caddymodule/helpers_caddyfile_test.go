package caddymodule

import (
	"bytes"
	"encoding/json"
	"fmt"
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
	documentedAddressBurst = 30
	documentedAddressEvery = 10 * time.Second
	documentedAccountBurst = 20
	documentedRefuseFor    = time.Minute
	documentedTokenLife    = 90 * 24 * time.Hour
	documentedMakers       = 8
)

// upstreamPassword is the password of the account "hub" at upstreams.
const upstreamPassword = "upstream-password-that-must-not-leak"

// passwordOf returns the password of an account in tests.
func passwordOf(name string) string { return name + "-password-that-must-not-leak" }

var bcryptHashes sync.Map // bcrypt is slow even at its lowest cost

// hash returns a bcrypt hash of the password.
func hash(password string) string {
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

// users returns the lines of static users with the passwords of passwordOf.
func users(names ...string) string {
	var lines strings.Builder
	for _, name := range names {
		fmt.Fprintf(&lines, "user %s %s\n", name, hash(passwordOf(name)))
	}
	return lines.String()
}

// private returns the lines of a private group with the given members.
func private(path string, members ...string) string {
	if len(members) == 0 {
		return "group " + path + "\n"
	}
	return "group " + path + " {\n members " + strings.Join(members, " ") + "\n}\n"
}

// visible returns the lines of a group with a visibility and no members.
func visible(path string, visibility directory.Visibility) string {
	return "group " + path + " {\n visibility " + string(visibility) + "\n}\n"
}

// hub returns the lines of the upstream docker.io at a test registry, with more
// lines in its block.
func hub(registry *registrytest.Registry, lines ...string) string {
	return upstreamAt("docker.io", registry.URL(), lines...)
}

// upstreamAt returns the lines of an upstream. Unless a line says otherwise, clients
// are patient, so that a busy machine does not change what they get.
func upstreamAt(name, endpoint string, lines ...string) string {
	return "upstream " + name + " {\n endpoint " + endpoint + "\n allow_private\n patience 1m\n" + strings.Join(lines, "\n") + "\n}\n"
}

// hubCredentials returns the line with the credentials of the account "hub",
// and sets its password in the environment.
func hubCredentials(t *testing.T) string {
	t.Setenv("HUB_PASSWORD", upstreamPassword)
	return "credentials hub {env.HUB_PASSWORD}"
}

// random returns content that cannot be compressed and depends on the seed.
func random(seed byte, size int) []byte {
	content := bytes.Repeat([]byte{seed}, size)
	state := uint32(seed) + 1
	for i := range content {
		state = state*1664525 + 1013904223
		content[i] = byte(state >> 24)
	}
	return content
}

// jsonWithoutField removes a field of the handler from a configuration.
func jsonWithoutField(t *testing.T, config []byte, field string) []byte {
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

// acmeRoles is the group acme with an account for each role.
const acmeRoles = "group acme {\n members alice\n maintainers bob\n owners carol\n}\n"

// trustedProxies makes the site trust X-Forwarded-For and the like from the
// clients of the tests.
const trustedProxies = "servers {\n trusted_proxies static 127.0.0.1/32\n}"

// usersText returns a users file with the given accounts.
func usersText(names ...string) string {
	var text strings.Builder
	for _, name := range names {
		text.WriteString(name + ":" + hash(passwordOf(name)) + "\n")
	}
	return text.String()
}

// backdate sets the time of a file into the past, so that it counts as
// completely written.
func backdate(t *testing.T, name string) {
	t.Helper()
	past := time.Now().Add(-time.Minute)
	if err := os.Chtimes(name, past, past); err != nil {
		t.Fatal(err)
	}
}

// writeFile writes a file and fails the test on an error.
func writeFile(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const blueUpstream = "blue.example"
