package access

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
)

// pattern is a pattern of the allow or deny line of a group. It consists of
// UPSTREAM/REPOSITORY and an optional :TAG. Each must match as a whole and
// case-sensitively, in the syntax of doublestar: * matches within a component, **
// matches any number of components.
type pattern struct {
	text string // as it was written
	name string // UPSTREAM/REPOSITORY
	tag  string // empty: any tag
}

// patternSyntax ends the text of an error about an invalid pattern.
const patternSyntax = "write UPSTREAM/REPOSITORY[:TAG], as in docker.io/library/* or ghcr.io/acme/**"

// parsePattern parses a pattern and rejects one that can never match an image. It
// does not check whether the upstream exists; see [pattern.checkUpstream].
func parsePattern(text string) (pattern, error) {
	if name, _, ok := strings.Cut(text, "@"); ok {
		return pattern{}, fmt.Errorf("pattern '%s': a pattern must not contain a digest; write the repository, as in %s", text, name)
	}
	if _, name, ok := strings.Cut(text, "://"); ok {
		return pattern{}, fmt.Errorf("pattern '%s': a pattern must not contain a scheme; write %s", text, name)
	}
	name, tag, tagged := strings.Cut(text, ":")
	switch {
	case strings.ToLower(name) != name:
		return pattern{}, fmt.Errorf("pattern '%s': image names are in lower case; write %s", text, strings.ToLower(name)+text[len(name):])
	case tagged && (tag == "" || strings.ContainsAny(tag, ":/")):
		return pattern{}, fmt.Errorf("pattern '%s': invalid tag; a colon is followed by a tag, and an upstream has no port; %s", text, patternSyntax)
	}
	for _, component := range strings.Split(name, "/") {
		if err := parse.Pattern(component, parse.IsNameByte); err != nil {
			return pattern{}, fmt.Errorf("pattern '%s': %w; %s", text, err, patternSyntax)
		}
	}
	if tagged {
		if err := parse.Pattern(tag, parse.IsTagByte); err != nil {
			return pattern{}, fmt.Errorf("pattern '%s': invalid tag: %w; %s", text, err, patternSyntax)
		}
		if tag == "**" {
			return pattern{}, fmt.Errorf("pattern '%s': ** does not match tags; write %s", text, name)
		}
	}
	return pattern{text, name, tag}, nil
}

// checkUpstream rejects a pattern whose first component matches none of the
// declared upstreams.
func (p pattern) checkUpstream(declared []string) error {
	first, _, more := strings.Cut(p.name, "/")
	switch {
	case first == "**":
		return nil
	case strings.Contains(first, "{"):
		return fmt.Errorf("pattern '%s': the name of the upstream must not contain alternatives; write a pattern for each upstream", p.text)
	case !slices.ContainsFunc(declared, func(name string) bool { return doublestar.MatchUnvalidated(first, name) }):
		return fmt.Errorf("pattern '%s': the upstream %s is not declared; write %s/%s, or `upstream %s` beside the groups", p.text, first, declared[0], p.text, first)
	case !more:
		return fmt.Errorf("pattern '%s': missing repository; write %s/**", p.text, first)
	}
	return nil
}

// ofUpstream reports whether the pattern can match an image of an upstream.
func (p pattern) ofUpstream(upstream string) bool {
	first, _, _ := strings.Cut(p.name, "/")
	return doublestar.MatchUnvalidated(first, upstream)
}

// all reports whether the pattern matches all images of the upstreams that its
// first component matches.
func (p pattern) all() bool {
	_, rest, _ := strings.Cut(p.name, "/")
	return p.tag == "" && (rest == "**" || p.name == "**")
}

// Image is an image in the form that patterns are matched with.
type Image struct {
	names []string // UPSTREAM/REPOSITORY; more than one for an image with an alias
	tag   string
}

// NewImage returns an image of an upstream. The tag is empty for a request of a
// manifest by digest, of a blob, or of a list.
//
// An official image of Docker Hub has two names, such as docker.io/library/alpine
// and docker.io/alpine. It matches a pattern if either does, so that a deny
// pattern cannot be avoided by using the other name.
func NewImage(upstream, repository, tag string) Image {
	image := Image{names: []string{upstream + "/" + repository}, tag: tag}
	if short, ok := strings.CutPrefix(repository, "library/"); ok && reference.NormalizeRepository(upstream, short) == repository {
		image.names = append(image.names, upstream+"/"+short)
	}
	return image
}

// String returns the image as UPSTREAM/REPOSITORY[:TAG].
func (i Image) String() string {
	if i.tag == "" {
		return i.names[0]
	}
	return i.names[0] + ":" + i.tag
}

func (p pattern) matchesName(image Image) bool {
	return slices.ContainsFunc(image.names, func(name string) bool { return doublestar.MatchUnvalidated(p.name, name) })
}

// allows reports whether the pattern, as an allow pattern, includes an image. The
// tag of the pattern is ignored for a request without a tag.
func (p pattern) allows(image Image) bool {
	return p.matchesName(image) && (p.tag == "" || image.tag == "" || doublestar.MatchUnvalidated(p.tag, image.tag))
}

// denies reports whether the pattern, as a deny pattern, excludes an image. A
// pattern with a tag excludes only requests of a matching tag.
func (p pattern) denies(image Image) bool {
	return p.matchesName(image) && (p.tag == "" || image.tag != "" && doublestar.MatchUnvalidated(p.tag, image.tag))
}

// ImagePatterns match images as the allow patterns of a group do; see [ImageLimits].
type ImagePatterns []pattern

// ParseImagePatterns parses patterns of an upstream's images. The error names the
// invalid pattern, and says what to write.
func ParseImagePatterns(upstream string, texts []string) (ImagePatterns, error) {
	patterns := make(ImagePatterns, 0, len(texts))
	for _, text := range texts {
		p, err := parsePattern(text)
		if err != nil {
			return nil, err
		}
		if !p.ofUpstream(upstream) {
			return nil, fmt.Errorf("pattern '%s' matches no image of %s; begin it with %s/, or write it in the block of another upstream", text, upstream, upstream)
		}
		if err := p.checkUpstream([]string{upstream}); err != nil {
			return nil, err
		}
		patterns = append(patterns, p)
	}
	return patterns, nil
}

// Match reports whether one of the patterns matches an image.
func (p ImagePatterns) Match(image Image) bool {
	return slices.ContainsFunc(p, func(p pattern) bool { return p.allows(image) })
}
