package oidc

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// rules decide which id tokens are accepted, and which roles they give.
type rules struct {
	account string
	maxAge  time.Duration
	require []*Requirement // including the issuer and the audiences
	maps    []*Map
}

// claimSet has the values of claims as text, by the names that the rules give them. A
// claim that is a list has several values.
type claimSet map[string][]string

func (o *Directory) compile() rules {
	rules := rules{account: o.Account, maxAge: time.Duration(o.MaxAge), maps: o.Maps}
	if rules.account == "" {
		rules.account = "sub"
	}
	if rules.maxAge == 0 {
		rules.maxAge = defaultMaxAge
	}
	// Neither ends in *. Like the other requirements they are judged at each pull,
	// so tokens end if their issuer or audience is no longer configured.
	rules.require = append([]*Requirement{
		{Claim: "iss", Values: []string{o.Issuer}}, {Claim: "aud", Values: o.Audiences},
	}, o.Require...)
	return rules
}

// judge applies the rules to claims, which become the facts of the account.
func (r *rules) judge(claims claimSet, now time.Time) (directory.Account, error) {
	if err := r.admit(claims, now); err != nil {
		return directory.Account{}, err
	}
	name := claims[r.account]
	if len(name) != 1 || name[0] == "" {
		return directory.Account{}, fmt.Errorf("the claim %s, which names the account, is missing", r.account)
	}
	account := directory.Account{Name: name[0], Facts: claims.encode()}
	for _, m := range r.maps {
		if anyMatches(claims[m.Claim], m.Value) {
			account.Map(m.Group, m.Role)
		}
	}
	if len(r.maps) > 0 && len(account.Mapped) == 0 {
		return directory.Account{}, errors.New("no map rule matches the token's claims")
	}
	if err := cmp.Or(directory.CheckAccountName(account.Name), directory.CheckFacts(account.Facts)); err != nil {
		return directory.Account{}, err
	}
	return account, nil
}

func (r *rules) admit(claims claimSet, now time.Time) error {
	if len(claims["iat"]) != 1 {
		return errors.New("the claim iat, the time at which it was issued, is missing")
	}
	seconds, err := strconv.ParseInt(claims["iat"][0], 10, 64)
	if err != nil {
		return errors.New("the claim iat is not a time")
	}
	if err := directory.CheckAge("the id token", time.Unix(seconds, 0), "max_age", r.maxAge, now); err != nil {
		return err
	}
	for _, required := range r.require {
		if !anyMatches(claims[required.Claim], required.Values...) {
			return fmt.Errorf("the claim %s must be %s, not %.100q", required.Claim, strings.Join(required.Values, " or "), claims[required.Claim])
		}
	}
	return nil
}

// facts returns the claims of a token that the rules look at.
func (r *rules) facts(token map[string]any, issued time.Time) claimSet {
	patterns := map[string][]string{r.account: nil}
	for _, required := range r.require {
		patterns[required.Claim] = append(patterns[required.Claim], required.Values...)
	}
	for _, m := range r.maps {
		patterns[m.Claim] = append(patterns[m.Claim], m.Value)
	}
	facts := make(claimSet)
	for claim, wanted := range patterns {
		value := claimAt(token, claim)
		list, isList := value.([]any)
		if !isList {
			list = []any{value}
		}
		for _, element := range list {
			// A list may have hundreds of groups, so only those that matter are kept.
			if text, ok := claimText(element); ok && (!isList || anyMatches([]string{text}, wanted...)) {
				facts[claim] = append(facts[claim], text)
			}
		}
		slices.Sort(facts[claim])
		if kept := slices.Compact(facts[claim]); len(kept) > 0 {
			facts[claim] = kept
		}
	}
	delete(facts, "iat")
	if !issued.IsZero() {
		facts["iat"] = []string{strconv.FormatInt(issued.Unix(), 10)}
	}
	return facts
}

var unescapePointer = strings.NewReplacer("~1", "/", "~0", "~")

// claimAt returns the claim with a name, or at a JSON pointer.
func claimAt(token map[string]any, claim string) any {
	path, isPointer := strings.CutPrefix(claim, "/")
	if !isPointer {
		return token[claim]
	}
	var value any = token
	for part := range strings.SplitSeq(path, "/") {
		object, _ := value.(map[string]any)
		value = object[unescapePointer.Replace(part)]
	}
	return value
}

// claimText returns the value of a claim as rules compare it. It reports false for an
// object, and for text that cannot go into a token of this site.
func claimText(value any) (string, bool) {
	switch value := value.(type) {
	case string:
		return value, !strings.ContainsFunc(value, unicode.IsControl)
	case json.Number:
		return value.String(), true
	case bool:
		return strconv.FormatBool(value), true
	}
	return "", false
}

// anyMatches reports whether one of the values matches one of the patterns, which may
// end in *.
func anyMatches(values []string, patterns ...string) bool {
	for _, pattern := range patterns {
		start, open := strings.CutSuffix(pattern, "*")
		for _, value := range values {
			if value == pattern || open && strings.HasPrefix(value, start) {
				return true
			}
		}
	}
	return false
}

// encode returns the claims as compact JSON, which is the same for equal claims: sorted
// by name, and a single value as a string.
func (c claimSet) encode() string {
	object := make(map[string]any, len(c))
	for claim, values := range c {
		if object[claim] = values; len(values) == 1 {
			object[claim] = values[0]
		}
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(object); err != nil {
		panic(err) // strings always marshal
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// parseClaims reads claims as this or an earlier version has encoded them.
func parseClaims(facts string) (claimSet, error) {
	if err := directory.CheckFacts(facts); err != nil {
		return nil, err
	}
	var object map[string]any
	if err := json.Unmarshal([]byte(facts), &object); err != nil {
		return nil, errors.New("the facts are not JSON")
	}
	claims := make(claimSet, len(object))
	for claim, value := range object {
		list, isList := value.([]any)
		if !isList {
			list = []any{value}
		}
		for _, element := range list {
			text, ok := element.(string)
			if !ok {
				return nil, errors.New("the facts are not those of an id token")
			}
			claims[claim] = append(claims[claim], text)
		}
	}
	return claims, nil
}
