package auth

import (
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestParseToken(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		content, value string
		renew          time.Duration
	}{
		{`{"token":"t"}`, "t", 48 * time.Second},
		{`{"access_token":"a"}`, "a", 48 * time.Second},
		{`{"token":"t","access_token":"a","expires_in":300}`, "t", 240 * time.Second},
		{`{"token":"t","expires_in":300.0}`, "t", 240 * time.Second},
		{`{"token":"t","expires_in":59}`, "t", 48 * time.Second},
		{`{"token":"t","expires_in":0}`, "t", 48 * time.Second},
		{`{"token":"t","expires_in":-1}`, "t", 48 * time.Second},
		{`{"token":"t","expires_in":null}`, "t", 48 * time.Second},
		{`{"token":"t","expires_in":"300"}`, "t", 48 * time.Second},
		{`{"token":"t","expires_in":1e300}`, "t", 48 * time.Minute},
		{`{"token":"t","issued_at":"nonsense","refresh_token":7}`, "t", 48 * time.Second},
		{`{}`, "", 0},
		{`[]`, "", 0},
		{``, "", 0},
		{`<html>`, "", 0},
		{`{"token":7}`, "", 0},
		{`{"token":"a b"}`, "", 0},
		{`{"token":"a\r\nX: y"}`, "", 0},
		{`{"token":"` + strings.Repeat("x", maxToken+1) + `"}`, "", 0},
	} {
		got, err := Request{Repository: "a"}.ParseToken([]byte(test.content), now)
		if (err == nil) != (test.value != "") {
			t.Errorf("ParseToken(%.80s): got %v, want valid %v", test.content, err, test.value != "")
		}
		if err == nil && (got.Value != test.value || got.Repository != "a" || got.renewAt.Sub(now) != test.renew) {
			t.Errorf("ParseToken(%s): got %s, renewed after %v, want %s after %v", test.content, got.Value, got.renewAt.Sub(now), test.value, test.renew)
		}
	}
}

// TestRequest checks the two forms of a token request.
func TestRequest(t *testing.T) {
	realm := &url.URL{Scheme: "https", Host: "h", Path: "/token", RawQuery: "service=theirs&x=y"}
	for _, test := range []struct {
		request Request
		login   Login
		query   string
		form    string
	}{
		{Request{&Challenge{Realm: realm, Service: "s"}, "a/b"}, Login{"u", "p"},
			"scope=repository%3Aa%2Fb%3Apull&service=s&x=y",
			"client_id=dependency-proxy&grant_type=password&password=p&scope=repository%3Aa%2Fb%3Apull&service=s&username=u"},
		{Request{&Challenge{Realm: realm}, ""}, Login{IdentityUser, "p"},
			"service=theirs&x=y",
			"client_id=dependency-proxy&grant_type=refresh_token&refresh_token=p"},
	} {
		if got := test.request.URL(); got.RawQuery != test.query || got.Path != "/token" {
			t.Errorf("%+v: got the URL %v, want the query %s", test.request, got, test.query)
		}
		if got := test.request.Form(test.login).Encode(); got != test.form {
			t.Errorf("%+v: got the form %s, want %s", test.request, got, test.form)
		}
	}
	if realm.RawQuery != "service=theirs&x=y" {
		t.Errorf("got the query %s of the realm afterwards, want it unchanged", realm.RawQuery)
	}
}

// TestTokens checks when a token is valid, and what is remembered of others.
func TestTokens(t *testing.T) {
	now := time.Now()
	tokens := NewTokens()
	first, second := &Token{Value: "1", Repository: "inner/a", renewAt: now.Add(time.Minute)}, &Token{Value: "2", renewAt: now.Add(time.Minute)}
	tokens.Add("a", first)
	if tokens.Valid("a", now) != first || tokens.Valid("a", now.Add(time.Minute)) != nil || tokens.Valid("b", now) != nil {
		t.Error("got a token that is due to be renewed or of another key, or none, want the one that was added")
	}
	tokens.Drop("a", second) // not the current one
	if tokens.Valid("a", now) != first {
		t.Error("got no token after another was dropped, want the current one")
	}
	tokens.Drop("a", first)
	if repository, ok := tokens.Repository("a"); tokens.Valid("a", now) != nil || !ok || repository != "inner/a" {
		t.Errorf("got a dropped token, or the repository %q of its scope, want only inner/a", repository)
	}
	tokens.Forget("a")
	if _, ok := tokens.Repository("a"); ok {
		t.Error("got the repository of a forgotten token, want none")
	}
	for i := range maxTokens + 1 {
		tokens.Add(strconv.Itoa(i), first)
	}
	if tokens.Valid("0", now) != nil || tokens.Valid("1", now) != first {
		t.Errorf("got %d tokens or others than the last ones, want the last %d", tokens.cache.Len(), maxTokens)
	}
}
