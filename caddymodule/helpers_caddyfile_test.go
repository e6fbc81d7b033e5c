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

// The lines of a directive.

// What the documentation promises about logins and access tokens.
const (
	documentedAddressBurst = 30
	documentedAddressEvery = 10 * time.Second
	documentedAccountBurst = 20
	documentedRefuseFor    = time.Minute
	documentedTokenLife    = 90 * 24 * time.Hour
	documentedMakers       = 8
)

// upstreamPassword is the password of the login "hub" at upstreams.
const upstreamPassword = "upstream-password-that-must-not-leak"

func passwordOf(name string) string { return name + "-password-that-must-not-leak" }

var bcryptHashes sync.Map // bcrypt is slow even at its lowest cost

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

func users(names ...string) string {
	var lines strings.Builder
	for _, name := range names {
		fmt.Fprintf(&lines, "user %s %s\n", name, hash(passwordOf(name)))
	}
	return lines.String()
}

// private is a group of these members.
func private(path string, members ...string) string {
	if len(members) == 0 {
		return "group " + path + "\n"
	}
	return "group " + path + " {\n members " + strings.Join(members, " ") + "\n}\n"
}

// visible is a group without members.
func visible(path string, visibility directory.Visibility) string {
	return "group " + path + " {\n visibility " + string(visibility) + "\n}\n"
}

// hub puts a registry in the place of Docker Hub, with more lines if need be.
func hub(registry *registrytest.Registry, lines ...string) string {
	return upstreamAt("docker.io", registry.URL(), lines...)
}

// at declares an upstream.
func upstreamAt(name, endpoint string, lines ...string) string {
	return "upstream " + name + " {\n endpoint " + endpoint + "\n allow_private\n" + strings.Join(lines, "\n") + "\n}\n"
}

// hubLogin is a line for upstreams that want a login.
func hubCredentials(t *testing.T) string {
	t.Setenv("HUB_PASSWORD", upstreamPassword)
	return "credentials hub {env.HUB_PASSWORD}"
}

// random is content that no compression makes smaller and that differs by seed.
func random(seed byte, size int) []byte {
	content := bytes.Repeat([]byte{seed}, size)
	state := uint32(seed) + 1
	for i := range content {
		state = state*1664525 + 1013904223
		content[i] = byte(state >> 24)
	}
	return content
}

// jsonWithout takes a field of the handler out of a configuration.
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

const acmeRoles = "group acme {\n members alice\n maintainers bob\n owners carol\n}\n"

const trustedProxies = "servers {\n trusted_proxies static 127.0.0.1/32\n}"

// usersText is a users file of these accounts.
func usersText(names ...string) string {
	var text strings.Builder
	for _, name := range names {
		text.WriteString(name + ":" + hash(passwordOf(name)) + "\n")
	}
	return text.String()
}

// settled makes a file look as if nobody were still writing it.
func backdate(t *testing.T, name string) {
	t.Helper()
	past := time.Now().Add(-time.Minute)
	if err := os.Chtimes(name, past, past); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
