package header

import (
	"net/http"
	"net/url"
	"strings"
)

// NextLink returns the target of the first link with rel="next" in the Link fields of
// a response, relative to the address of the request, or nil.
func NextLink(h http.Header, base *url.URL) *url.URL {
	for _, line := range h.Values("Link") {
		for _, l := range parseLinks(line) {
			if !l.isNext() {
				continue
			}
			if target, err := base.Parse(l.target); err == nil {
				return target
			}
		}
	}
	return nil
}

// link is an element of a Link field.
type link struct {
	target string // a URI reference, not parsed
	rel    string // the value of the first parameter rel, which lists relations
}

// isNext reports whether the relations of the link contain next.
func (l link) isNext() bool {
	for relation := range strings.FieldsSeq(l.rel) {
		if strings.EqualFold(relation, "next") {
			return true
		}
	}
	return false
}

// parseLinks parses the value of a Link field (RFC 8288, section 3 and appendix B.2).
// It returns the links before the first one that is malformed.
func parseLinks(value string) (links []link) {
	p := linkParser{rest: value}
	for {
		l, ok := p.link()
		if !ok {
			return links
		}
		links = append(links, l)
	}
}

// linkParser parses a Link field. Its methods remove what they return from rest.
type linkParser struct{ rest string }

// link parses the next link, after any empty elements of the list.
func (p *linkParser) link() (l link, ok bool) {
	p.rest = strings.TrimLeft(p.rest, ", \t")
	if !p.skip("<") {
		return link{}, false
	}
	target, rest, closed := strings.Cut(p.rest, ">")
	if !closed {
		return link{}, false
	}
	l.target, p.rest = strings.TrimSpace(target), rest
	for hasRel := false; p.skip(";"); {
		name, value, ok := p.parameter()
		if !ok {
			return link{}, false
		}
		if strings.EqualFold(name, "rel") && !hasRel {
			l.rel, hasRel = value, true
		}
	}
	p.space()
	return l, p.rest == "" || p.rest[0] == ','
}

// parameter parses a parameter, which may be empty or lack a value.
func (p *linkParser) parameter() (name, value string, ok bool) {
	if name = p.token(); !p.skip("=") {
		return name, "", true
	}
	if p.space(); !strings.HasPrefix(p.rest, `"`) {
		return name, p.token(), true
	}
	value, ok = p.quoted()
	return name, value, ok
}

// token parses the text up to the next delimiter, without the spaces around it.
func (p *linkParser) token() string {
	end := strings.IndexAny(p.rest, "=;,")
	if end < 0 {
		end = len(p.rest)
	}
	text := p.rest[:end]
	p.rest = p.rest[end:]
	return strings.Trim(text, " \t")
}

// quoted parses a quoted string (RFC 9110, section 5.6.4).
func (p *linkParser) quoted() (value string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return b.String(), true
		case c == '\\' && i+1 < len(p.rest):
			i++
			b.WriteByte(p.rest[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

// skip removes a delimiter and the spaces before it, and reports whether it is there.
func (p *linkParser) skip(delimiter string) bool {
	p.space()
	rest, found := strings.CutPrefix(p.rest, delimiter)
	p.rest = rest
	return found
}

func (p *linkParser) space() { p.rest = strings.TrimLeft(p.rest, " \t") }
