package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"":                                0,
		"0":                               0,
		"17":                              17 * time.Second,
		" 17 ":                            17 * time.Second,
		"86400":                           maxRetryAfter,
		"99999999999999999999999999":      maxRetryAfter,
		"-5":                              0,
		"1.5":                             0,
		"soon":                            0,
		"Fri, 02 Jan 2026 03:05:05 GMT":   time.Minute,
		"Fri, 02 Jan 2026 03:00:00 GMT":   0,
		"Sat, 02 Jan 2027 03:00:00 GMT":   maxRetryAfter,
		"Friday, 02-Jan-26 03:05:05 GMT":  time.Minute,
		"Fri, 02 Jan 2026 03:05:05 +0100": 0, // no HTTP date
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("Retry-After %q is %v, want %v", value, got, want)
		}
	}
}

func TestError(t *testing.T) {
	e := &Error{Kind: Unavailable, Upstream: "docker.io", Repository: "library/alpine", Status: 503, Message: "manifest 3.20: upstream is in trouble", Err: io.ErrUnexpectedEOF}
	wrapped := fmt.Errorf("while pulling: %w", e)
	if want := "while pulling: upstream docker.io: library/alpine: manifest 3.20: upstream is in trouble (HTTP 503): unexpected EOF"; wrapped.Error() != want {
		t.Error(wrapped)
	}
	if KindOf(wrapped) != Unavailable || !errors.Is(wrapped, io.ErrUnexpectedEOF) {
		t.Error("kind or cause is lost")
	}
	if KindOf(nil) != Other || KindOf(io.EOF) != Other {
		t.Error("other errors have a kind")
	}
	if RateLimited.String() != "rate limited" || Invalid.String() != "invalid" || Kind(200).String() != "kind 200" {
		t.Error("names of kinds")
	}
}

func TestSecret(t *testing.T) {
	config := Config{Name: "x", Username: testUser, Password: testPassword,
		Endpoint: &url.URL{Scheme: "https", Host: "h"}, Transport: http.DefaultTransport}
	registry, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		texts = append(texts, fmt.Sprintf(verb, config.Password), fmt.Sprintf(verb, config), fmt.Sprintf(verb, &config), fmt.Sprintf(verb, registry))
	}
	content, err := json.Marshal(struct {
		Password Secret
		Empty    Secret `json:",omitempty"`
	}{Password: config.Password})
	if err != nil || string(content) != `{"Password":"*****"}` {
		t.Errorf("JSON %s, %v", content, err)
	}
	for _, text := range texts {
		for _, leak := range []string{testPassword, fmt.Sprintf("%x", testPassword), registry.basic()} {
			if strings.Contains(text, leak) {
				t.Errorf("printed: %s", text)
			}
		}
	}
}

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
		"no transport":         func(c *Config) { c.Transport = nil },
		"no endpoint":          func(c *Config) { c.Endpoint = nil },
		"relative":             func(c *Config) { c.Endpoint = parse("/v2") },
		"scheme":               func(c *Config) { c.Endpoint = parse("ftp://h") },
		"user":                 func(c *Config) { c.Endpoint = parse("https://u:" + testPassword + "@h") },
		"query":                func(c *Config) { c.Endpoint = parse("https://h?x=" + testPassword) },
		"password only":        func(c *Config) { c.Password = testPassword },
		"user only":            func(c *Config) { c.Username = "u" },
		"colon":                func(c *Config) { c.Username, c.Password = "u:v", testPassword },
		"realm host is an URL": func(c *Config) { c.RealmHosts = []string{"https://u:" + testPassword + "@h/"} },
		"empty realm host":     func(c *Config) { c.RealmHosts = []string{""} },
	} {
		config := good()
		change(&config)
		if _, err := New(config); err == nil || strings.Contains(err.Error(), testPassword) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(good()); err != nil {
		t.Error(err)
	}
}
