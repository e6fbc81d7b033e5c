package upstream

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

func TestNew(t *testing.T) {
	parse := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	good := func() Config {
		return Config{Name: "x", Endpoint: parse("https://h"), Transport: http.DefaultTransport}
	}
	for name, change := range map[string]func(*Config){
		"no transport":        func(c *Config) { c.Transport = nil },
		"no endpoint":         func(c *Config) { c.Endpoint = nil },
		"relative":            func(c *Config) { c.Endpoint = parse("/v2") },
		"scheme":              func(c *Config) { c.Endpoint = parse("ftp://h") },
		"user":                func(c *Config) { c.Endpoint = parse("https://u:" + testPassword + "@h") },
		"query":               func(c *Config) { c.Endpoint = parse("https://h?x=" + testPassword) },
		"realm host is a URL": func(c *Config) { c.RealmHosts = []string{"https://u:" + testPassword + "@h/"} },
		"empty realm host":    func(c *Config) { c.RealmHosts = []string{""} },
	} {
		config := good()
		change(&config)
		if _, err := New(config); err == nil || strings.Contains(err.Error(), testPassword) {
			t.Errorf("%s: got %v, want an error without the password", name, err)
		}
	}
	if _, err := New(good()); err != nil {
		t.Errorf("valid configuration: %v", err)
	}
}

// TestConfigHidesPassword checks that neither a configuration nor a client shows the
// login when it is printed.
func TestConfigHidesPassword(t *testing.T) {
	login := auth.Login{Username: testUser, Password: testPassword}
	config := Config{Name: "x", Login: auth.StaticLogin(login.Username, login.Password),
		Endpoint: &url.URL{Scheme: "https", Host: "h"}, Transport: http.DefaultTransport}
	registry, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		texts = append(texts, fmt.Sprintf(verb, login), fmt.Sprintf(verb, login.Password), fmt.Sprintf(verb, config), fmt.Sprintf(verb, &config), fmt.Sprintf(verb, registry))
	}
	content, err := json.Marshal(struct {
		Password auth.Secret
		Empty    auth.Secret `json:",omitempty"`
	}{Password: login.Password})
	if err != nil || string(content) != `{"Password":"*****"}` {
		t.Errorf("got JSON %s, %v, want stars", content, err)
	}
	for _, text := range texts {
		for _, leak := range []string{testPassword, fmt.Sprintf("%x", testPassword), login.Header()} {
			if strings.Contains(text, leak) {
				t.Errorf("got %q, want no secret in it", text)
			}
		}
	}
}
