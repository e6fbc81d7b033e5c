package mediatype

import (
	"slices"
	"strings"
)

// choices is the number of manifestTypes between which registries let clients
// choose. They offer a tag as an index or as the image for one platform of it, and
// either in OCI's format or in Docker's.
const choices = 4

// acceptAny is the Accept header for whatever the registry prefers. Some registries
// send what they consider old formats unless the new ones are named.
var acceptAny = strings.Join(manifestTypes, ", ") + ", */*"

// Accept is the set of media types that a client accepts for a manifest, as far as
// registries offer a choice between them: OCI's and Docker's images and indexes. The
// zero value accepts any.
type Accept uint8

// ParseAccept returns the set of the values of an Accept header (RFC 9110, section
// 12.5.1), of which clients send several. Wildcards and no values accept any, and so
// do types between which registries offer no choice, if no others are accepted.
// Preferences are ignored, except for types that are excluded by a weight of 0.
func ParseAccept(values []string) Accept {
	var a Accept
	for value := range strings.SplitSeq(strings.Join(values, ","), ",") {
		t, parameters, found := strings.Cut(value, ";")
		if found && isExcluded(parameters) {
			continue
		}
		t = strings.TrimSpace(t)
		i := slices.Index(manifestTypes[:choices], t)
		if i < 0 { // clients need not write types in lower case, but do
			t = strings.ToLower(t)
			i = slices.Index(manifestTypes[:choices], t)
		}
		switch {
		case i >= 0:
			a |= 1 << i
		case t == "*/*" || t == "application/*":
			return 0
		}
	}
	if a == 1<<choices-1 {
		return 0
	}
	return a
}

// isExcluded reports whether the parameters of a media type have a weight of 0.
func isExcluded(parameters string) bool {
	for p := range strings.SplitSeq(parameters, ";") {
		key, weight, found := strings.Cut(p, "=")
		if found && strings.EqualFold(strings.TrimSpace(key), "q") {
			return strings.Trim(strings.TrimSpace(weight), "0.") == ""
		}
	}
	return false
}

// Accepts reports whether the set has a media type. Each set has the types between
// which registries offer no choice.
func (a Accept) Accepts(mediaType string) bool {
	for i, known := range manifestTypes[:choices] {
		if mediaType == known {
			return a == 0 || a&(1<<i) != 0
		}
	}
	return true
}

// String returns a short name of the set: one letter for each type, or "" for the
// zero value.
func (a Accept) String() string {
	var name strings.Builder
	for i, letter := range "imld" { // OCI index, OCI image, Docker list, Docker image
		if a&(1<<i) != 0 {
			name.WriteRune(letter)
		}
	}
	return name.String()
}

// Header returns the set as a value of an Accept header, which [ParseAccept] reads.
func (a Accept) Header() string {
	if a == 0 {
		return acceptAny
	}
	var types []string
	for i, known := range manifestTypes[:choices] {
		if a&(1<<i) != 0 {
			types = append(types, known)
		}
	}
	return strings.Join(types, ", ")
}
