package access

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ImageLimits are the allow and deny patterns of groups by path. They limit which
// images can be pulled through a group, whoever pulls them, and whether or not an
// image is cached. A group without patterns has no entry.
type ImageLimits map[string]groupLimits

type groupLimits struct{ allow, deny []pattern }

// NewImageLimits parses the patterns of all groups. The error names the group and
// the invalid pattern, and says what to write.
func NewImageLimits(groups []Group) (ImageLimits, error) {
	all := make(ImageLimits)
	for _, g := range groups {
		if len(g.Allow)+len(g.Deny) == 0 {
			continue
		}
		var limits groupLimits
		for to, texts := range map[*[]pattern][]string{&limits.allow: g.Allow, &limits.deny: g.Deny} {
			for _, text := range texts {
				p, err := parsePattern(text)
				if err != nil {
					return nil, fmt.Errorf("group %s: %w", g.Path, err)
				}
				*to = append(*to, p)
			}
		}
		all[g.Path] = limits
	}
	return all, nil
}

// CheckUpstreams rejects a pattern that begins with none of the declared upstreams,
// of which there must be at least one.
func (l ImageLimits) CheckUpstreams(declared []string) error {
	for _, group := range slices.Sorted(maps.Keys(l)) {
		limits := l[group]
		for _, p := range slices.Concat(limits.allow, limits.deny) {
			if err := p.checkUpstream(declared); err != nil {
				return fmt.Errorf("group %s: %w", group, err)
			}
		}
	}
	return nil
}

// LimitVerdict is a decision of [ImageLimits].
type LimitVerdict struct {
	// Allowed is the decision.
	Allowed bool

	// Group is the group whose limits exclude the image, and Rule the reason, for
	// the log and for insiders. Both are empty if the image is allowed.
	Group, Rule string

	// Rules are the allow patterns that include the image, one for each group
	// that has any. It is only set if the image is allowed.
	Rules []string
}

// Decide reports whether an image can be pulled through a group. The limits of
// the group and of each group above it must allow the image, so a subgroup can only
// narrow them.
func (l ImageLimits) Decide(group string, image Image) LimitVerdict {
	v := LimitVerdict{Allowed: true}
	for path := range Upwards(group) {
		limits := l[path]
		if i := slices.IndexFunc(limits.deny, func(p pattern) bool { return p.denies(image) }); i >= 0 {
			return LimitVerdict{Group: path, Rule: "group " + path + ": deny " + limits.deny[i].text}
		}
		if limits.allow == nil {
			continue
		}
		i := slices.IndexFunc(limits.allow, func(p pattern) bool { return p.allows(image) })
		if i < 0 {
			return LimitVerdict{Group: path, Rule: "group " + path + ": no allow pattern matches " + image.String()}
		}
		v.Rules = append(v.Rules, "group "+path+": allow "+limits.allow[i].text)
	}
	return v
}

// Lines returns the patterns that apply to a group in the form "group acme: allow
// docker.io/library/*", first those of the group itself.
func (l ImageLimits) Lines(group string) (lines []string) {
	line := func(path, word string, patterns []pattern) {
		if len(patterns) == 0 {
			return
		}
		texts := make([]string, len(patterns))
		for i, p := range patterns {
			texts[i] = p.text
		}
		lines = append(lines, "group "+path+": "+word+" "+strings.Join(texts, " "))
	}
	for path := range Upwards(group) {
		line(path, "allow", l[path].allow)
		line(path, "deny", l[path].deny)
	}
	return lines
}

// MayReach reports whether the limits of a group may allow any image of an upstream.
func (l ImageLimits) MayReach(group, upstream string) bool {
	of := func(p pattern) bool { return p.ofUpstream(upstream) }
	for path := range Upwards(group) {
		limits := l[path]
		if limits.allow != nil && !slices.ContainsFunc(limits.allow, of) {
			return false
		}
		if slices.ContainsFunc(limits.deny, func(p pattern) bool { return of(p) && p.all() }) {
			return false
		}
	}
	return true
}
