package header

import (
	"slices"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
)

// Limits for WWW-Authenticate. Not every transport limits the size of headers.
const (
	maxChallengeLine = 8 << 10 // in bytes; longer lines are ignored
	maxChallenges    = 16
)

// Challenge is one challenge of WWW-Authenticate (RFC 9110, section 11.6.1).
type Challenge struct {
	Scheme string            // in lower case
	Params map[string]string // keys in lower case, with the first value of each
}

// ParseChallenges returns the challenges of all WWW-Authenticate lines, in order.
// A line may contain several. At a syntax error it drops the rest of the line and
// the challenge that contains the error, because a truncated realm is worse than
// none.
func ParseChallenges(lines []string) []Challenge {
	var found []Challenge
	for _, line := range lines {
		if len(line) > maxChallengeLine {
			continue
		}
		s := challengeScanner{rest: line}
		for len(found) < maxChallenges {
			c, ok := s.challenge()
			if !ok {
				break
			}
			found = append(found, c)
		}
	}
	return found
}

// PullScope returns the first repository that a scope of a challenge permits to
// pull (distribution token specification, "Resource Scope Grammar"), or "" if
// there is none. Other resources and actions are never asked for.
func PullScope(scope string) string {
	for one := range strings.FieldsSeq(scope) {
		name, ok := strings.CutPrefix(one, "repository:")
		colon := strings.LastIndexByte(name, ':')
		if ok && colon > 0 && slices.Contains(strings.Split(name[colon+1:], ","), "pull") && reference.ValidRepository(name[:colon]) {
			return name[:colon]
		}
	}
	return ""
}

// challengeScanner scans one header line.
type challengeScanner struct{ rest string }

// challenge scans a scheme and its parameters. It reports false at the end of
// the line and at a syntax error.
func (s *challengeScanner) challenge() (Challenge, bool) {
	s.skip(" \t,")
	scheme := s.token()
	if scheme == "" {
		return Challenge{}, false
	}
	c := Challenge{Scheme: strings.ToLower(scheme), Params: map[string]string{}}
	if s.rest == "" || s.rest[0] == ',' {
		return c, true
	}
	if s.rest[0] != ' ' && s.rest[0] != '\t' {
		s.rest = ""
		return Challenge{}, false
	}
	s.skip(" \t")
	if s.token68() {
		return c, true
	}
	for {
		s.skip(" \t,")
		before := s.rest
		key := s.token()
		s.skip(" \t")
		if key == "" || !strings.HasPrefix(s.rest, "=") {
			// Not a parameter but the end or the next scheme.
			s.rest = before
			return c, true
		}
		s.rest = s.rest[1:]
		value, ok := s.value()
		if !ok {
			s.rest = ""
			return Challenge{}, false
		}
		key = strings.ToLower(key)
		if _, repeated := c.Params[key]; !repeated {
			c.Params[key] = value
		}
	}
}

// value scans the value of a parameter and reports whether a comma or the end
// follows. An unquoted value extends to the next comma or blank, which is more
// than the token of RFC 9110, because some registries omit the quotes of a URL.
func (s *challengeScanner) value() (string, bool) {
	s.skip(" \t")
	var value string
	if strings.HasPrefix(s.rest, `"`) {
		var ok bool
		if value, ok = s.quoted(); !ok {
			return "", false
		}
	} else {
		end := strings.IndexAny(s.rest, " \t,")
		if end < 0 {
			end = len(s.rest)
		}
		value, s.rest = s.rest[:end], s.rest[end:]
	}
	s.skip(" \t")
	return value, s.rest == "" || s.rest[0] == ','
}

// quoted scans a quoted-string (RFC 9110, section 5.6.4) and returns it without
// escapes.
func (s *challengeScanner) quoted() (string, bool) {
	var b strings.Builder
	for i := 1; i < len(s.rest); i++ {
		switch s.rest[i] {
		case '"':
			s.rest = s.rest[i+1:]
			return b.String(), true
		case '\\':
			i++
			if i == len(s.rest) {
				return "", false
			}
		}
		b.WriteByte(s.rest[i])
	}
	return "", false
}

// token68 skips a token68 (RFC 9110, section 11.2), which some schemes use
// instead of parameters, as in "Negotiate YWJj==". It reports whether it found
// one: a run of its characters up to a comma or the end.
func (s *challengeScanner) token68() bool {
	end := 0
	for end < len(s.rest) && (isAlphanumeric(s.rest[end]) || strings.IndexByte("-._~+/", s.rest[end]) >= 0) {
		end++
	}
	if end == 0 {
		return false
	}
	rest := strings.TrimLeft(strings.TrimLeft(s.rest[end:], "="), " \t")
	if rest != "" && rest[0] != ',' {
		return false
	}
	s.rest = rest
	return true
}

// token scans a token (RFC 9110, section 5.6.2), which may be empty.
func (s *challengeScanner) token() string {
	end := 0
	for end < len(s.rest) && (isAlphanumeric(s.rest[end]) || strings.IndexByte("!#$%&'*+-.^_`|~", s.rest[end]) >= 0) {
		end++
	}
	token := s.rest[:end]
	s.rest = s.rest[end:]
	return token
}

// skip skips any of chars.
func (s *challengeScanner) skip(chars string) { s.rest = strings.TrimLeft(s.rest, chars) }

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
