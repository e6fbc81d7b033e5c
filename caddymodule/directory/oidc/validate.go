package oidc

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// check checks the whole configuration.
func (o *Directory) check() error {
	if err := checkIssuer(o.Issuer); err != nil {
		return err
	}
	if len(o.Audiences) == 0 {
		return fmt.Errorf("directory oidc: missing audience for %s; write `audience NAME`, the audience that the CI requests", o.Issuer)
	}
	for _, audience := range o.Audiences {
		if audience == "" || strings.Contains(audience, "*") {
			return fmt.Errorf("invalid audience '%s'; write it in full", audience)
		}
	}
	if o.Account != "" {
		if err := checkClaim(o.Account); err != nil {
			return fmt.Errorf("account: %w", err)
		}
	}
	if age := time.Duration(o.MaxAge); age != 0 && age < time.Minute {
		return fmt.Errorf("max_age %v is too short; write a duration of at least 1m", age)
	}
	if err := parse.Each("require", o.Require, requiredClaim, (*Requirement).check); err != nil {
		return err
	}
	for _, m := range o.Maps {
		if err := m.check(); err != nil {
			return err
		}
	}
	if len(o.Require)+len(o.Maps) == 0 {
		return fmt.Errorf("directory oidc: every account of %s could log in; write `map CLAIM VALUE -> GROUP` or `require CLAIM VALUE`", o.Issuer)
	}
	return nil
}

func checkIssuer(issuer string) error {
	u, ok := parse.URL(issuer, "https", "http")
	if !ok || strings.ContainsAny(issuer, "?#*") || u.Scheme == "http" && !isLoopback(u) {
		return errors.New("directory oidc: invalid issuer; use the URL in the `iss` claim of its tokens, such as https://issuer.example.com")
	}
	return nil
}

func requiredClaim(r *Requirement) string { return r.Claim }

func (r *Requirement) check() error {
	if r == nil {
		return errors.New("a requirement is null")
	}
	if len(r.Values) == 0 {
		return fmt.Errorf("require %s has no value; write `require CLAIM VALUE...`", r.Claim)
	}
	for _, value := range r.Values {
		if err := cmp.Or(checkClaim(r.Claim), checkPattern(value)); err != nil {
			return fmt.Errorf("require %s: %w", r.Claim, err)
		}
	}
	return nil
}

func (m *Map) check() error {
	if m == nil {
		return errors.New("a map is null")
	}
	if err := cmp.Or(checkClaim(m.Claim), checkPattern(m.Value), directory.CheckMapping(m.Group, m.Role)); err != nil {
		return fmt.Errorf("map %s: %w", m.Claim, err)
	}
	return nil
}

func checkClaim(claim string) error {
	isBlank := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }
	if claim == "" || claim == "/" || strings.ContainsFunc(claim, isBlank) {
		return fmt.Errorf("invalid claim '%s'; write a name such as sub, or a JSON pointer such as /kubernetes.io/namespace", claim)
	}
	return nil
}

func checkPattern(value string) error {
	if value == "" || strings.Contains(strings.TrimSuffix(value, "*"), "*") {
		return fmt.Errorf("invalid value '%s'; a * is permitted only at its end, where it matches any ending", value)
	}
	return nil
}
