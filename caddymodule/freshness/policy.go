// Package freshness configures how long the tags of an upstream are served from the
// cache, and reports stale answers in response headers and in the log.
package freshness

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
)

// Policy says how long the tags of an upstream are used.
type Policy struct {
	// FreshFor is how long the digest of a tag is used without asking the
	// upstream again, unless one of FreshRules matches the tag: 5m by default.
	FreshFor caddy.Duration `json:"fresh_for,omitempty"`

	// FreshRules are exceptions from FreshFor. The first one that matches a tag
	// counts. The default is none.
	FreshRules []Rule `json:"fresh_rules,omitempty"`

	// Patience is how long a client that could have a stale answer waits for a
	// fresh one: 500ms by default. The question to the upstream goes on, and the
	// next client gets its answer.
	Patience caddy.Duration `json:"patience,omitempty"`

	// StaleFor is the age up to which a tag or a list is served that is not fresh,
	// if the upstream does not answer in time, fails, denies access or has deleted
	// it. The age counts from when the upstream last confirmed it. Past it, clients
	// wait for the upstream, and get its error. By default there is no limit. 0
	// means no stale answers at all.
	StaleFor *caddy.Duration `json:"stale_for,omitempty"`

	// AbsentFor is how long the upstream is not asked again about a tag or a
	// repository that it does not have: 10s by default. What is absent for one
	// group and login is asked about for others. 0 means that it is asked each
	// time.
	AbsentFor *caddy.Duration `json:"absent_for,omitempty"`

	// Offline means that nothing is sent to the upstream, its token service and the
	// source of its login. What is cached is served, whatever its age. The default is
	// false.
	Offline bool `json:"offline,omitempty"`

	rules []access.ImagePatterns // of FreshRules
}

// Rule says how long some tags are fresh.
type Rule struct {
	// FreshFor is how long the digest of a tag is used without asking the upstream
	// again. It is required.
	FreshFor caddy.Duration `json:"fresh_for"`

	// Patterns match tags as the whole of UPSTREAM/REPOSITORY:TAG, in which *
	// matches within a component and ** across components, as in
	// docker.io/library/*:*.*.*. Without :TAG a pattern matches all tags. At least
	// one is required.
	Patterns []string `json:"patterns"`
}

const (
	defaultFreshFor = 5 * time.Minute
	defaultPatience = 500 * time.Millisecond

	defaultAbsentFor = caddy.Duration(10 * time.Second)
)

// Provision sets the defaults, after it has checked the policy of an upstream.
func (p *Policy) Provision(upstream string) error {
	if err := p.Check(upstream); err != nil {
		return err
	}
	if p.FreshFor == 0 {
		p.FreshFor = caddy.Duration(defaultFreshFor)
	}
	if p.Patience == 0 {
		p.Patience = caddy.Duration(defaultPatience)
	}
	if p.AbsentFor == nil {
		p.AbsentFor = new(defaultAbsentFor)
	}
	return nil
}

// Check parses the patterns for an upstream, and returns an error that says what to
// write if the policy is not valid.
func (p *Policy) Check(upstream string) error {
	switch {
	case p.FreshFor < 0:
		return errors.New("fresh_for must not be negative; write a duration such as 5m")
	case p.Patience < 0:
		return errors.New("patience must not be negative; write a duration such as 500ms")
	case p.StaleFor != nil && *p.StaleFor < 0:
		return errors.New("stale_for must not be negative; write a duration such as 24h, or 0 for no stale answers")
	}
	if p.AbsentFor != nil && *p.AbsentFor < 0 {
		return errors.New("absent_for must not be negative; write a duration such as 10s, or 0 to ask each time")
	}
	p.rules = nil
	for _, rule := range p.FreshRules {
		if rule.FreshFor <= 0 || len(rule.Patterns) == 0 {
			return errors.New("a rule of fresh_rules needs a positive fresh_for, and patterns")
		}
		patterns, err := access.ParseImagePatterns(upstream, rule.Patterns)
		if err != nil {
			return fmt.Errorf("fresh_for: %w", err)
		}
		p.rules = append(p.rules, patterns)
	}
	return nil
}

// Apply sets what the policy says about a tag, which is empty for a request without
// one.
func (p *Policy) Apply(c *pullthrough.Config, upstream, repository, tag string) {
	c.FreshFor, c.Patience, c.StaleFor = time.Duration(p.FreshFor), time.Duration(p.Patience), pullthrough.Forever
	c.AbsentFor = time.Duration(*p.AbsentFor)
	if p.StaleFor != nil {
		c.StaleFor = time.Duration(*p.StaleFor)
	}
	if tag == "" || len(p.rules) == 0 {
		return
	}
	image := access.NewImage(upstream, repository, tag)
	for i, patterns := range p.rules {
		if patterns.Match(image) {
			c.FreshFor = time.Duration(p.FreshRules[i].FreshFor)
			return
		}
	}
}
