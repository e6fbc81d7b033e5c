package oidc

import (
	"unicode"
)

func isBlank(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }
