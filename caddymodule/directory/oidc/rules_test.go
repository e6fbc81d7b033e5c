package oidc

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// rulesOf returns the rules of the lines of a block.
func rulesOf(t testing.TB, lines string) rules {
	t.Helper()
	o := new(Directory)
	if err := o.UnmarshalCaddyfile(caddyfile.NewTestDispenser("oidc https://issuer.example {\n audience registry\n" + lines + "\n}\n")); err != nil {
		t.Fatal(err)
	}
	return o.compile()
}

// judgeToken applies rules to the claims of an id token, and then to the resulting facts.
func judgeToken(t testing.TB, rules rules, payload string) (directory.Account, error) {
	t.Helper()
	var token map[string]any
	decoder := json.NewDecoder(strings.NewReader(payload))
	decoder.UseNumber()
	if err := decoder.Decode(&token); err != nil {
		t.Fatal(err)
	}
	token["iss"], token["aud"] = "https://issuer.example", []any{"other", "registry"}
	now := time.Unix(1_800_000_000, 0)
	account, err := rules.judge(rules.facts(token, now), now)
	if err != nil {
		return account, err
	}
	claims, err := parseClaims(account.Facts)
	if err != nil {
		t.Fatal(err)
	}
	again, err := rules.judge(claims, now.Add(rules.maxAge))
	if err != nil || again.Name != account.Name || again.Facts != account.Facts || !maps.Equal(again.Mapped, account.Mapped) {
		t.Errorf("from the facts: got %+v, %v, want %+v", again, err, account)
	}
	if _, err := rules.judge(claims, now.Add(rules.maxAge+time.Second)); err == nil {
		t.Error("the facts are accepted after max_age")
	}
	return account, nil
}

// TestRulesJudge: which claims give which roles, and which of them become facts.
func TestRulesJudge(t *testing.T) {
	const pod = `{"sub":"system:serviceaccount:build:runner","kubernetes.io":{"namespace":"build","serviceaccount":{"name":"runner"},"a/b~c":"x"}}`
	const lists = `{"sub":"7","groups":["everyone","team/platform","team/web","team/web"],"deep":{"x":1,"y":[true,null,{},2.50]},"https://example.com/role":"dev"}`
	for _, c := range []struct{ lines, token, roles, facts string }{
		{"map /kubernetes.io/namespace build -> acme", pod, "acme:member", `"/kubernetes.io/namespace":"build","sub":"system:serviceaccount:build:runner"`},
		{"map /kubernetes.io/serviceaccount/name r* -> acme/x owner\n map sub system:serviceaccount:build:* -> acme/x maintainer", pod, "acme/x:owner", ""},
		{"map /kubernetes.io/a~1b~0c x -> acme", pod, "acme:member", ""},
		{"map /kubernetes.io/namespace/x build -> acme", pod, "", ""},
		{"map /kubernetes.io build -> acme", pod, "", ""},
		{"map kubernetes.io.namespace build -> acme", pod, "", ""},
		{"map /sub/0 s -> acme", pod, "", ""},
		{"require /kubernetes.io/namespace test build", pod, "none", ""},
		{"require /kubernetes.io/namespace test buil", pod, "", ""},
		{"require /kubernetes.io/namespace *", pod, "none", ""},
		{"require x *", pod, "", ""},
		{"map groups team/* -> acme\n map groups everyone -> all\n map groups boss -> acme owner", lists, "acme:member all:member", `"groups":["everyone","team/platform","team/web"],"sub":"7"`},
		{"map groups team/web -> acme", lists, "acme:member", `"groups":"team/web","sub":"7"`},
		{"map groups te -> acme", lists, "", ""},
		{"map https://example.com/role dev -> acme maintainer", lists, "acme:maintainer", `"https://example.com/role":"dev","sub":"7"`},
		{"map /deep/x 1 -> one\n map /deep/y true -> two\n map /deep/y 2.50 -> three\n map /deep/y null -> four", lists, "one:member three:member two:member", ""},
		{"map groups team/* -> acme\n account groups", lists, "", ""},
		{"map sub 7 -> acme\n account /deep/x", lists, "acme:member", `"/deep/x":"1","sub":"7"`},
		{"map sub * -> acme", `{"sub":"<&>\u2028\"\\é"}`, "acme:member", `"sub":"<&>\u2028\"\\é"`},
		{"map sub * -> acme", `{"sub":"\u0085"}`, "", ""},
		{"map x a* -> acme", `{"sub":"s","x":"a` + strings.Repeat("b", directory.MaxFacts) + `"}`, "", ""},
	} {
		account, err := judgeToken(t, rulesOf(t, c.lines), c.token)
		var roles []string
		for _, group := range []string{"acme", "acme/x", "all", "one", "three", "two"} {
			if role := account.Mapped[group]; role != directory.NoRole {
				roles = append(roles, fmt.Sprintf("%s:%s", group, role))
			}
		}
		if got := strings.Join(roles, " "); got != strings.TrimPrefix(c.roles, "none") || len(roles) != len(account.Mapped) || (err == nil) != (c.roles != "") {
			t.Errorf("%s: got roles %q, %v, want %q", c.lines, got, err, c.roles)
		}
		want, _ := parseClaims(`{"aud":"registry","iat":"1800000000","iss":"https://issuer.example",` + c.facts + `}`)
		if c.facts != "" && account.Facts != want.encode() {
			t.Errorf("%s: got facts %s, want %s", c.lines, account.Facts, want.encode())
		}
	}
}

// TestDirectoryLookupFacts: facts that cannot come from a login are refused.
func TestDirectoryLookupFacts(t *testing.T) {
	o := &Directory{rules: rulesOf(t, "map sub * -> acme")}
	whole := `{"aud":"registry","iat":"` + fmt.Sprint(time.Now().Unix()) + `","iss":"https://issuer.example","sub":"x"}`
	if account, err := o.Lookup(t.Context(), "x", whole); err != nil || account.Mapped["acme"] != directory.Member || account.Facts != whole {
		t.Errorf("got %+v, %v, want a member of acme", account, err)
	}
	for _, facts := range []string{"", "{}", "null", "[]", "x", whole + "x", whole[:len(whole)-1], `{"groups":["acme"]}`,
		strings.Replace(whole, `"x"`, `7`, 1), strings.Replace(whole, `"x"`, `["x",["y"]]`, 1), strings.Replace(whole, `"x"`, `["x","y"]`, 1),
		strings.Replace(whole, `"x"`, `{}`, 1), strings.Replace(whole, `"x"`, `[]`, 1), strings.Replace(whole, `"iat":"`, `"iat":"-`, 1),
		strings.Replace(whole, `"iat":"`, `"iat":"99999999`, 1), strings.Replace(whole, `"x"`, `"`+strings.Repeat("x", directory.MaxFacts)+`"`, 1),
	} {
		if account, err := o.Lookup(t.Context(), "x", facts); err == nil || !directory.IsRefusal(err) {
			t.Errorf("%.200s: got %+v, %v, want a refusal", facts, account, err)
		}
	}
	if _, err := o.Lookup(t.Context(), "y", whole); err == nil {
		t.Error("the facts of another account are accepted")
	}
}

// BenchmarkDirectoryLookup measures the part of a pull that judges the facts.
func BenchmarkDirectoryLookup(b *testing.B) {
	o := &Directory{rules: rulesOf(b, "map sub * -> acme\n map ref refs/heads/* -> other\n require repository_owner acme")}
	facts := `{"aud":"registry","iat":"` + fmt.Sprint(time.Now().Unix()) + `","iss":"https://issuer.example","ref":"refs/heads/main","repository_owner":"acme","sub":"repo:acme/app:ref:refs/heads/main"}`
	for b.Loop() {
		if _, err := o.Lookup(b.Context(), "repo:acme/app:ref:refs/heads/main", facts); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzParseClaims: any facts can be read and judged, and claims that were read are always
// encoded in the same way.
func FuzzParseClaims(f *testing.F) {
	f.Add(`{"aud":"registry","iat":"1800000000","iss":"https://issuer.example","sub":"x"}`)
	f.Add(`{"aud":["registry","b"],"iat":"1800000000","iss":"https://issuer.example","sub":"\u0000<","x":[]}`)
	rules := rulesOf(f, "map sub * -> acme")
	f.Fuzz(func(t *testing.T, facts string) {
		claims, err := parseClaims(facts)
		if err != nil {
			return
		}
		written := claims.encode()
		if again, err := parseClaims(written); len(written) <= directory.MaxFacts && (err != nil || again.encode() != written) {
			t.Errorf("%q is encoded as %q and read again as %v, %v", facts, written, again, err)
		}
		account, err := rules.judge(claims, time.Unix(1_800_000_000, 0))
		if err == nil && (account.Mapped["acme"] != directory.Member || account.Name == "" || len(account.Facts) > directory.MaxFacts || !utf8.ValidString(account.Facts)) {
			t.Errorf("%q: got the account %+v, want a valid one", facts, account)
		}
	})
}

// FuzzIssuerOf: a password without the form of a token has no issuer.
func FuzzIssuerOf(f *testing.F) {
	f.Add("e30.eyJpc3MiOiJ4In0.x")
	f.Fuzz(func(t *testing.T, password string) {
		if issuer := issuerOf(password); issuer != "" && strings.Count(password, ".") != 2 {
			t.Errorf("%q: got issuer %q, want none", password, issuer)
		}
	})
}
