package access

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ImageLimits are the allow and deny lines of groups. They hold for administrators
// too, and whether or not an image is cached.
type ImageLimits map[string]groupLimits // by path; without the groups that have none

type groupLimits struct{ allow, deny []pattern }

// NewImageLimits reads the lines of all groups. The error says which pattern cannot
// be read.
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

// CheckUpstreams rejects a pattern that begins with none of the declared upstreams.
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

// LimitVerdict is the verdict of the limits of a group and of the groups above it.
type LimitVerdict struct {
	OK    bool
	Group string   // whose limits exclude the image
	Rule  string   // the pattern that does, for the log and for insiders
	Rules []string // that permit it, one for each group that has allow lines
}

// Decide decides about an image by the limits of a group and of all groups above
// it: each of them must permit it, so a subgroup can only narrow.
func (l ImageLimits) Decide(group string, image Image) LimitVerdict {
	v := LimitVerdict{OK: true}
	for path := range upwards(group) {
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

// Lines returns the allow and deny lines that hold in a group, as in "group acme:
// allow docker.io/library/*", those of the group itself first.
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
	for path := range upwards(group) {
		line(path, "allow", l[path].allow)
		line(path, "deny", l[path].deny)
	}
	return lines
}

// MayReach reports whether the limits of a group leave any image of an upstream.
func (l ImageLimits) MayReach(group, upstream string) bool {
	of := func(p pattern) bool { return p.ofUpstream(upstream) }
	for path := range upwards(group) {
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
