package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// TestAdminErrors checks that the answer to a bad request says what is wrong
// with it, and that the request changes nothing.
func TestAdminErrors(t *testing.T) {
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice"), "blocked bob")
	noJSON := sitetest.Header("Content-Type", "application/x-www-form-urlencoded")
	order := `{"kind":"deploy","groups":["acme"]}`
	none := "/" + strings.Repeat("a", 16)
	for name, row := range map[string]struct {
		a      sitetest.Answer
		status int
		text   string
	}{
		"PUT":               {s.Ask("PUT", sitetest.AdminTokens, order), 405, "GET, POST"},
		"DELETE all":        {s.Ask("DELETE", sitetest.AdminTokens, ""), 405, "GET, POST"},
		"GET one":           {s.Ask("GET", sitetest.AdminTokens+none, ""), 405, "DELETE"},
		"POST explain":      {s.Ask("POST", sitetest.AdminExplainPull, "{}"), 405, "GET"},
		"HEAD":              {s.Ask("HEAD", sitetest.AdminTokens, ""), 405, ""},
		"form":              {s.Ask("POST", sitetest.AdminTokens, order, noJSON), 415, "application/json"},
		"not JSON":          {s.Ask("POST", sitetest.AdminTokens, "kind=deploy"), 400, "invalid request body"},
		"unknown field":     {s.Ask("POST", sitetest.AdminTokens, `{"kind":"deploy","groups":["acme"],"admin":true}`), 400, "admin"},
		"long":              {s.Ask("POST", sitetest.AdminTokens, `"`+strings.Repeat("x", 64<<10)+`"`), 413, "65536"},
		"empty":             {s.Ask("POST", sitetest.AdminTokens, `{}`), 400, "kind"},
		"no group":          {s.Ask("POST", sitetest.AdminTokens, `{"kind":"deploy"}`), 400, "one group"},
		"unknown group":     {s.Ask("POST", sitetest.AdminTokens, `{"kind":"deploy","groups":["acmee"]}`), 400, "group 'acmee' does not exist"},
		"upper case":        {s.Ask("POST", sitetest.AdminTokens, `{"kind":"deploy","groups":["Acme"]}`), 400, "lower case"},
		"unknown role":      {s.Ask("POST", sitetest.AdminTokens, `{"kind":"group","groups":["acme"],"role":"root"}`), 400, "maintainer"},
		"deploy manages":    {s.Ask("POST", sitetest.AdminTokens, `{"kind":"deploy","groups":["acme"],"scopes":["manage"]}`), 400, "pulling only"},
		"unknown scope":     {s.Ask("POST", sitetest.AdminTokens, `{"kind":"deploy","groups":["acme"],"scopes":["push"]}`), 400, "scopes"},
		"unknown account":   {s.Ask("POST", sitetest.AdminTokens, `{"kind":"personal","account":"zoe"}`), 400, "account 'zoe' does not exist"},
		"blocked account":   {s.Ask("POST", sitetest.AdminTokens, `{"kind":"personal","account":"bob"}`), 400, "blocked"},
		"no account":        {s.Ask("POST", sitetest.AdminTokens, `{"kind":"personal"}`), 400, "owner"},
		"too long a life":   {s.Ask("POST", sitetest.AdminTokens, `{"kind":"deploy","groups":["acme"],"lifetime":"400d"}`), 400, "366 days"},
		"too short a life":  {s.Ask("POST", sitetest.AdminTokens, `{"kind":"deploy","groups":["acme"],"lifetime":"1s"}`), 400, "lifetime"},
		"no such site":      {s.Ask("POST", sitetest.AdminTokens, `{"kind":"deploy","groups":["acme"],"site":"x"}`), 404, "'x'"},
		"revoke none":       {s.Ask("DELETE", sitetest.AdminTokens+none, ""), 404, "access token"},
		"revoke no id":      {s.Ask("DELETE", sitetest.AdminTokens+"/..%2f..%2fcertificates", ""), 400, "16 lower-case"},
		"unknown parameter": {s.Ask("GET", sitetest.AdminTokens+"?user=x", ""), 400, "'user'"},
		"twice":             {s.Ask("GET", sitetest.AdminExplainPull+"?as=a&as=b", ""), 400, "duplicate"},
		"no image":          {s.Ask("GET", sitetest.AdminExplainPull+"?as=alice", ""), 400, "acme/alpine:3.20"},
		"bad image":         {s.Ask("GET", sitetest.AdminExplainPull+"?as=alice&pull=acme/Alpine", ""), 400, "lower-case"},
		"bad digest":        {s.Ask("GET", sitetest.AdminExplainPull+"?pull=acme/alpine@sha256:12", ""), 400, "invalid digest"},
		"explain no site":   {s.Ask("GET", sitetest.AdminExplainPull+"?pull=acme/alpine&site=x", ""), 404, "'x'"},
		"wrong origin":      {s.Ask("POST", sitetest.AdminTokens, order, sitetest.Header("Origin", "https://evil.example")), 403, "origin"},
		"wrong host":        {s.Ask("POST", sitetest.AdminTokens, order, sitetest.Host("evil.example")), 403, "host"},
	} {
		if row.a.StatusCode != row.status || !strings.Contains(row.a.AdminMessage(), row.text) {
			t.Errorf("%s: got %d %s, want %d and %q", name, row.a.StatusCode, row.a.Data, row.status, row.text)
		}
	}
	list := s.Ask("GET", sitetest.AdminTokens, "").Has(t, "Content-Type", "application/json").Has(t, "Cache-Control", "no-store")
	if string(list.Data) != `{"tokens":[]}`+"\n" {
		t.Errorf("got the list %s after bad requests, want no tokens", list.Data)
	}
}

// TestAdminTokens checks that scripts can create, list and revoke access
// tokens, and that only the answer to the creation contains the secret.
func TestAdminTokens(t *testing.T) {
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Private("two"))
	var made []admin.CreatedToken
	for _, order := range []string{
		`{"kind":"deploy","groups":["acme"],"name":"x","lifetime":"12h"}`,
		`{"kind":"group","groups":["two"],"role":"maintainer"}`,
		`{"kind":"group","groups":["two"]}`,
		`{"kind":"personal","account":"alice","groups":["acme"],"scopes":["manage"]}`,
	} {
		var m admin.CreatedToken
		a := s.Ask("POST", sitetest.AdminTokens, order)
		err := json.Unmarshal(a.Data, &m)
		if id, _ := accesstoken.Parse(m.Secret); err != nil || a.StatusCode != http.StatusCreated || id != m.ID {
			t.Fatalf("%s: got %d %s, error %v; want 201 with a token", order, a.StatusCode, a.Data, err)
		}
		s.AddSecrets(m.Secret)
		made = append(made, m)
	}
	for i, want := range []string{"deploy [acme]  [pull]", "group [two] maintainer [pull manage]", "group [two] member [pull]", "personal [acme]  [pull manage]"} {
		if got := fmt.Sprint(made[i].Kind, " ", made[i].Groups, " ", made[i].Role, " ", made[i].Scopes); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if life := made[0].Expires.Sub(made[0].Created); life.Hours() != 12 {
		t.Errorf("got a lifetime of %s, want 12h", life)
	}
	if life := made[1].Expires.Sub(made[1].Created); life != sitetest.DocumentedTokenLife {
		t.Errorf("got a lifetime of %s, want %s", life, sitetest.DocumentedTokenLife)
	}
	for query, want := range map[string]int{"": 4, "?group=two": 2, "?account=alice": 1, "?group=acme": 2, "?account=bob": 0, "?site=": 4, "?site=x": 0} {
		a := s.Ask("GET", sitetest.AdminTokens+query, "")
		var list admin.TokenList
		if err := json.Unmarshal(a.Data, &list); err != nil || len(list.Tokens) != want || strings.Contains(string(a.Data), accesstoken.Prefix) || strings.Contains(string(a.Data), "sha256") {
			t.Errorf("%s: got %d tokens, error %v, in %s; want %d and no secrets", query, len(list.Tokens), err, a.Data, want)
		}
	}
	for range 2 {
		a := s.Ask("DELETE", sitetest.AdminTokens+"/"+made[0].ID, "")
		if a.StatusCode != http.StatusOK || !strings.Contains(string(a.Data), `"revoked_by":"admin API"`) {
			t.Errorf("got %d %s, want 200 and who has revoked the token", a.StatusCode, a.Data)
		}
	}
	s.Get("/v2/", sitetest.Basic("", made[0].Secret)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Get("/v2/", sitetest.Basic("", made[3].Secret)).Expect(t, http.StatusOK, "")
}

// TestTokenCommands checks that each command prints the expected output or
// fails with the expected error.
func TestTokenCommands(t *testing.T) {
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"))
	for want, args := range map[string][]string{
		"--account NAME":               {"token", "create"},
		"invalid duration":             {"token", "create", "--group", "acme", "--lifetime", "soon"},
		"group 'acmee' does not exist": {"token", "create", "--group", "acmee"},
		"unknown flag":                 {"token", "create", "--user", "alice"},
		"malformed":                    {"token", "revoke", "dpxy_00000000000000000000000000000000000000"},
		"16 lower-case":                {"token", "revoke", "x/../y"},
		"HTTP 404":                     {"token", "revoke", strings.Repeat("a", 16)},
		"requires at least 1":          {"token", "revoke"},
		"--pull GROUP/IMAGE":           {"explain", "--as", "alice"},
		"unknown command":              {"token", "steal", "it"},
	} {
		out, err := s.Command(args...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got error %v and %s, want %q", args, err, out, want)
		}
	}
	stdout, stderr, err := s.CommandOutputs("token", "create", "--account", "alice", "--scope", "manage", "--json")
	var made admin.CreatedToken
	if err != nil || stderr != "" || json.Unmarshal([]byte(stdout), &made) != nil || !made.MayManage() || made.Owner.Name != "alice" {
		t.Errorf("got %s, %s, error %v; want JSON of a token of alice and nothing else", stdout, stderr, err)
	}
	s.AddSecrets(made.Secret)
	stdout, stderr, err = s.CommandOutputs("token", "revoke", made.Secret) // the token itself
	if err != nil || stdout != "" || !strings.Contains(stderr, made.ID) || strings.Contains(stderr, made.Secret) {
		t.Errorf("got %s, %s, error %v; want the ID on the standard error", stdout, stderr, err)
	}
	s.Get("/v2/", sitetest.Basic("", made.Secret)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	_, id := s.CreateToken("--group", "acme", "--role", "maintainer", "--name", "robot")
	var list admin.TokenList
	if out := s.MustCommand("token", "list", "--json"); json.Unmarshal([]byte(out), &list) != nil || len(list.Tokens) != 2 {
		t.Errorf("got %s, want JSON of 2 tokens", out)
	}
	out := s.MustCommand("token", "list", "--group", "acme")
	for _, what := range []string{"ID", id, "group", "maintainer of acme", "robot", "never", "valid"} {
		if !strings.Contains(out, what) {
			t.Errorf("the list lacks %q: %s", what, out)
		}
	}
	if lines := strings.Count(out, "\n"); lines != 2 {
		t.Errorf("got %d lines, want 2: %s", lines, out)
	}
	address := s.Admin
	s.Admin = "127.0.0.1:1"
	if out, err := s.Command("token", "list"); err == nil {
		t.Errorf("got %s without an admin endpoint, want an error", out)
	}
	s.Admin = address
}

// TestAdminRejectsEmptyParameters checks that an empty parameter or flag, as a
// script sends if its variable is not set, is an error and does not select
// everything.
func TestAdminRejectsEmptyParameters(t *testing.T) {
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"))
	for _, query := range []string{"?account=", "?group=", "?account=alice&group="} {
		if a := s.Ask(http.MethodGet, sitetest.AdminTokens+query, ""); a.StatusCode != http.StatusBadRequest || !strings.Contains(a.AdminMessage(), "is empty") {
			t.Errorf("%s: got %d %s, want 400", query, a.StatusCode, a.Data)
		}
	}
	if a := s.Ask(http.MethodPost, sitetest.AdminTokens, `{"kind":"personal","account":"alice","groups":[]}`); a.StatusCode != http.StatusBadRequest || !strings.Contains(a.AdminMessage(), "list of groups is empty") {
		t.Errorf("a token limited to no group: got %d %s, want 400", a.StatusCode, a.Data)
	}
	for _, args := range [][]string{
		{"token", "create", "--account", "alice", "--group", ""}, {"token", "create", "--account", "", "--group", "acme"},
		{"token", "create", "--group", "acme", "--role", ""}, {"token", "create", "--group", "acme", "--lifetime", ""}, {"token", "create", "--group", "acme", "--scope", ""},
		{"token", "list", "--account", ""}, {"token", "list", "--group", ""},
	} {
		if out, err := s.Command(args...); err == nil || !strings.Contains(err.Error()+out, "is empty") {
			t.Errorf("%q: got %v %s, want an error", args, err, out)
		}
	}
	if list := s.MustCommand("token", "list"); strings.Count(list, "\n") != 1 {
		t.Errorf("got the tokens %s, want none", list)
	}
}
