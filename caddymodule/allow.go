package caddymodule

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
)

// imagePattern is one pattern of a group's allow or deny line. It consists of
// UPSTREAM/REPOSITORY and an optional :TAG, each of which matches as a whole and
// case-sensitively, with the syntax of doublestar: * matches within a component,
// ** any number of components.
type imagePattern struct {
	text string // as it was written
	name string // UPSTREAM/REPOSITORY
	tag  string // empty: any tag
}

// patternSyntax ends an error about a pattern that cannot be read.
const patternSyntax = "write UPSTREAM/REPOSITORY[:TAG], as in docker.io/library/* or ghcr.io/acme/**"

// parseImagePattern reads a pattern and rejects what could never match an image.
// Whether its upstream exists is for [imagePattern.checkUpstream] to tell.
func parseImagePattern(text string) (imagePattern, error) {
	if name, _, ok := strings.Cut(text, "@"); ok {
		return imagePattern{}, fmt.Errorf("pattern '%s': a pattern must not contain a digest; write the repository, as in %s", text, name)
	}
	if _, name, ok := strings.Cut(text, "://"); ok {
		return imagePattern{}, fmt.Errorf("pattern '%s': a pattern must not contain a scheme; write %s", text, name)
	}
	name, tag, tagged := strings.Cut(text, ":")
	switch {
	case strings.ToLower(name) != name:
		return imagePattern{}, fmt.Errorf("pattern '%s': image names are in lower case; write %s", text, strings.ToLower(name)+text[len(name):])
	case tagged && (tag == "" || strings.ContainsAny(tag, ":/")):
		return imagePattern{}, fmt.Errorf("pattern '%s': invalid tag; a colon is followed by a tag, and an upstream has no port; %s", text, patternSyntax)
	}
	for _, component := range strings.Split(name, "/") {
		if err := parse.Pattern(component, parse.IsNameByte); err != nil {
			return imagePattern{}, fmt.Errorf("pattern '%s': %w; %s", text, err, patternSyntax)
		}
	}
	if tagged {
		if err := parse.Pattern(tag, parse.IsTagByte); err != nil {
			return imagePattern{}, fmt.Errorf("pattern '%s': invalid tag: %w; %s", text, err, patternSyntax)
		}
		if tag == "**" {
			return imagePattern{}, fmt.Errorf("pattern '%s': ** does not match tags; write %s", text, name)
		}
	}
	return imagePattern{text, name, tag}, nil
}

// checkUpstream rejects a pattern whose first component is not, or matches none,
// of the declared upstreams.
func (p imagePattern) checkUpstream(declared []string) error {
	first, _, more := strings.Cut(p.name, "/")
	switch {
	case first == "**":
		return nil
	case strings.Contains(first, "{"):
		return fmt.Errorf("pattern '%s': alternatives are not possible in the name of the upstream; write a pattern for each upstream", p.text)
	case !slices.ContainsFunc(declared, func(name string) bool { return doublestar.MatchUnvalidated(first, name) }):
		return fmt.Errorf("pattern '%s': the upstream %s is not declared; write %s/%s, or `upstream %s` beside the groups", p.text, first, declared[0], p.text, first)
	case !more:
		return fmt.Errorf("pattern '%s': missing repository; write %s/**", p.text, first)
	}
	return nil
}

// pulledImage is the image of a request as patterns are matched against it.
type pulledImage struct {
	names []string // UPSTREAM/REPOSITORY; see imageOf
	tag   string   // empty for a request by digest, of a blob or of a list
}

// imageOf returns what patterns are compared with. An official image of Docker
// Hub has two names, docker.io/library/alpine and docker.io/alpine: the short one
// must not slip through a pattern that was written for the other.
func imageOf(repo *repository, rt route) pulledImage {
	image := pulledImage{names: []string{repo.upstream + "/" + repo.name}, tag: rt.tag}
	if short, ok := strings.CutPrefix(repo.name, "library/"); ok && reference.NormalizeRepository(repo.upstream, short) == repo.name {
		image.names = append(image.names, repo.upstream+"/"+short)
	}
	return image
}

func (i pulledImage) String() string {
	if i.tag == "" {
		return i.names[0]
	}
	return i.names[0] + ":" + i.tag
}

func (p imagePattern) matchesName(image pulledImage) bool {
	return slices.ContainsFunc(image.names, func(name string) bool { return doublestar.MatchUnvalidated(p.name, name) })
}

// allows reports whether the pattern permits an image. Without a tag in the
// request the tag of the pattern does not count.
func (p imagePattern) allows(image pulledImage) bool {
	return p.matchesName(image) && (p.tag == "" || image.tag == "" || doublestar.MatchUnvalidated(p.tag, image.tag))
}

// denies reports whether the pattern excludes an image. A pattern with a tag
// excludes requests for that tag alone.
func (p imagePattern) denies(image pulledImage) bool {
	return p.matchesName(image) && (p.tag == "" || image.tag != "" && doublestar.MatchUnvalidated(p.tag, image.tag))
}

// imageLimits are the allow and deny lines of one group.
type imageLimits struct{ allow, deny []imagePattern }

// newImageLimits reads the lines of all groups, by the group's path. A group
// without any is not in it.
func newImageLimits(groups []*Group) (map[string]*imageLimits, error) {
	all := make(map[string]*imageLimits)
	for _, g := range groups {
		if len(g.Allow)+len(g.Deny) == 0 {
			continue
		}
		limits := new(imageLimits)
		for to, texts := range map[*[]imagePattern][]string{&limits.allow: g.Allow, &limits.deny: g.Deny} {
			for _, text := range texts {
				p, err := parseImagePattern(text)
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

// limitVerdict is the verdict of the limits of a group and of the groups above it.
type limitVerdict struct {
	ok    bool
	group string   // whose limits exclude the image
	rule  string   // the pattern that does, for the log and for insiders
	rules []string // that permit it, one for each group that has allow lines
}

// limitOf decides about an image by the limits of a group and of all groups above
// it: each of them must permit it, so a subgroup can only narrow.
func (h *Handler) limitOf(group string, image pulledImage) limitVerdict {
	v := limitVerdict{ok: true}
	for ; group != ""; group = group[:max(strings.LastIndexByte(group, '/'), 0)] {
		limits := h.imageLimits[group]
		if limits == nil {
			continue
		}
		if i := slices.IndexFunc(limits.deny, func(p imagePattern) bool { return p.denies(image) }); i >= 0 {
			return limitVerdict{group: group, rule: "group " + group + ": deny " + limits.deny[i].text}
		}
		if limits.allow == nil {
			continue
		}
		i := slices.IndexFunc(limits.allow, func(p imagePattern) bool { return p.allows(image) })
		if i < 0 {
			return limitVerdict{group: group, rule: "group " + group + ": no allow pattern matches " + image.String()}
		}
		v.rules = append(v.rules, "group "+group+": allow "+limits.allow[i].text)
	}
	return v
}

// limitLines returns the allow and deny lines that hold in a group, as in "group
// acme: allow docker.io/library/*", those of the group itself first.
func (h *Handler) limitLines(group string) (lines []string) {
	for ; group != ""; group = group[:max(strings.LastIndexByte(group, '/'), 0)] {
		for _, g := range h.Groups {
			if g.Path == group && len(g.Allow) > 0 {
				lines = append(lines, "group "+group+": allow "+strings.Join(g.Allow, " "))
			}
			if g.Path == group && len(g.Deny) > 0 {
				lines = append(lines, "group "+group+": deny "+strings.Join(g.Deny, " "))
			}
		}
	}
	return lines
}

// checkLimits denies what the limits exclude, to admins too and whether or not it
// is cached. The caller is known to be allowed to pull from the group, so it may
// learn which group excludes the image.
func (ex *exchange) checkLimits(repo *repository) *apiError {
	if len(ex.imageLimits) == 0 {
		return nil
	}
	image := imageOf(repo, ex.route)
	v := ex.limitOf(ex.route.group, image)
	if v.ok {
		return nil
	}
	ex.record(zap.WarnLevel, auditLine{auditDenied, ex.caller.Name, ex.caller.Directory, ex.caller.Token, v.rule})
	e := refuse(denied, "%s cannot be pulled through group %s: the limits of group %s exclude it; the owner of group %s decides what they allow",
		image, ex.route.group, v.group, v.group)
	if ex.insider {
		e.detail = ruleDetail{v.rule}
	}
	return e
}

// checkPatterns checks the syntax of the allow and deny lines.
func (g *Group) checkPatterns() error {
	for line, patterns := range map[string][]string{"allow": g.Allow, "deny": g.Deny} {
		if patterns != nil && len(patterns) == 0 {
			return fmt.Errorf("group %s: %s is empty; write patterns, or leave it out", g.Path, line)
		}
	}
	_, err := newImageLimits([]*Group{g})
	return err
}

// checkPatternUpstreams checks that each pattern begins with a declared upstream.
func (h *Handler) checkPatternUpstreams() error {
	declared := []string{dockerHub}
	if len(h.Upstreams) > 0 {
		declared = nil
		for _, u := range h.Upstreams {
			declared = append(declared, u.Name)
		}
	}
	for _, g := range h.Groups {
		for _, text := range slices.Concat(g.Allow, g.Deny) {
			p, err := parseImagePattern(text)
			if err == nil {
				err = p.checkUpstream(declared)
			}
			if err != nil {
				return fmt.Errorf("group %s: %w", g.Path, err)
			}
		}
	}
	return nil
}
