package parse

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Pattern checks the pattern of one component of a name, of whose characters literal
// reports which stand for themselves. It is strict because a mistyped pattern of a
// deny line would match nothing.
func Pattern(component string, literal func(byte) bool) error {
	if component == "" {
		return errors.New("empty component")
	}
	if !doublestar.ValidatePattern(component) {
		return errors.New("unbalanced [ ] or { } in a component")
	}
	if strings.Contains(component, "**") && component != "**" {
		return fmt.Errorf("** must be a whole component, as in a/**/b, which '%s' is not", component)
	}
	braces, class := 0, false
	for i := range len(component) {
		switch c := component[i]; {
		case c == '{':
			braces++
		case c == '}':
			braces--
		case c == ',' && braces == 0:
			return errors.New("a comma separates alternatives in { } only; patterns are separated by spaces")
		case c == '[' && !class, c == ']' && class:
			class = !class
		case (c == '!' || c == '^') && i > 0 && component[i-1] == '[': // negates the class
		case !literal(c) && !strings.ContainsRune("*?,", rune(c)):
			return fmt.Errorf("unexpected character '%c'", c)
		}
	}
	return nil
}

// IsNameByte reports whether c can be in the name of a group or a repository.
func IsNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
}

// IsTagByte reports whether c can be in a tag.
func IsTagByte(c byte) bool { return IsNameByte(c) || 'A' <= c && c <= 'Z' }
