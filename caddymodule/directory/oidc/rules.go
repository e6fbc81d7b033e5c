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
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// rules say who gets in with an id token, and as what.
type rules struct {
	account string
	maxAge  time.Duration
	require []*Requirement // issuer and audiences among them
	maps    []*Map
}

// claimSet are claims as text, by the names that the rules give them. Each
// has a value, and a list several.
type claimSet map[string][]string

func (o *Directory) compile() rules {
	rules := rules{account: o.Account, maxAge: time.Duration(o.MaxAge), maps: o.Maps}
	if rules.account == "" {
		rules.account = "sub"
	}
	if rules.maxAge == 0 {
		rules.maxAge = defaultOIDCMaxAge
	}
	// Neither ends in *, and like the others they are judged at each pull: what
	// was given to tokens of an issuer or for an audience that is no longer
	// configured ends.
	rules.require = append([]*Requirement{
		{Claim: "iss", Values: []string{o.Issuer}}, {Claim: "aud", Values: o.Audiences},
	}, o.Require...)
	return rules
}

// MappedGroups implements Mapping.
func (o *Directory) MappedGroups() (groups []string) {
	for _, m := range o.Maps {
		groups = append(groups, m.Group)
	}
	return groups
}

// judge applies the rules. The account's facts are the claims again.
func (r *rules) judge(claims claimSet, now time.Time) (directory.Account, error) {
	if err := r.admit(claims, now); err != nil {
		return directory.Account{}, err
	}
	roles := make(map[string]directory.Role)
	for _, m := range r.maps {
		if anyMatches(claims[m.Claim], m.Value) {
			role, _ := directory.ParseRole(cmp.Or(m.Role, "member"))
			roles[m.Group] = max(roles[m.Group], role)
		}
	}
	if len(r.maps) > 0 && len(roles) == 0 {
		return directory.Account{}, errors.New("no map fits its claims")
	}
	name := claims[r.account]
	if len(name) != 1 || name[0] == "" {
		return directory.Account{}, fmt.Errorf("it has no claim %s to name the account", r.account)
	}
	account := directory.Account{Name: name[0], Facts: claims.encode(), Mapped: roles}
	if len(account.Name) > directory.MaxName {
		return directory.Account{}, fmt.Errorf("the account's name is longer than %d bytes", directory.MaxName)
	}
	if len(account.Facts) > directory.MaxFacts {
		return directory.Account{}, fmt.Errorf("the claims that rules look at are longer than %d bytes", directory.MaxFacts)
	}
	return account, nil
}

func (r *rules) admit(claims claimSet, now time.Time) error {
	if len(claims["iat"]) != 1 {
		return errors.New("it does not say when it was issued (iat)")
	}
	seconds, err := strconv.ParseInt(claims["iat"][0], 10, 64)
	if err != nil {
		return errors.New("when it was issued (iat) is not a time")
	}
	switch age := now.Sub(time.Unix(seconds, 0)); {
	case age > r.maxAge:
		return fmt.Errorf("it was issued %v ago, and max_age is %v", age.Round(time.Second), r.maxAge)
	case age < -tokenissuer.Leeway:
		return errors.New("it was issued in the future (iat); a clock is wrong")
	}
	for _, required := range r.require {
		if !anyMatches(claims[required.Claim], required.Values...) {
			return fmt.Errorf("the claim %s is not %s but %.100q", required.Claim, strings.Join(required.Values, " or "), claims[required.Claim])
		}
	}
	return nil
}

// facts picks from all claims of a token those that the rules look at.
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
			// A list may be of hundreds of groups, so only what matters is kept.
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

// claimAt returns the claim of a name, or that at a JSON pointer.
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

// claimText is a claim's value as rules compare it. What cannot go into a token
// of ours, or is an object, is no value.
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

// anyMatches tells whether one of the values is one of the patterns, which may
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

// encode writes the claims as compact JSON, always alike: sorted by name, a
// single value as a string.
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

// parseClaims reads what encode has written, by this version or another.
func parseClaims(facts string) (claimSet, error) {
	if len(facts) > directory.MaxFacts {
		return nil, errors.New("the facts are too long")
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
				return nil, errors.New("the facts are of another kind")
			}
			claims[claim] = append(claims[claim], text)
		}
	}
	return claims, nil
}
