package upstream

import (
	_ "crypto/sha256" // both hashes must be linked in for go-digest to offer them
	_ "crypto/sha512"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

const (
	// maxRepository bounds a repository name, in bytes. Distribution-spec v1.1
	// leaves the figure to the registries; 255 is what clients and registries keep to.
	maxRepository = 255
	// maxTag bounds a tag, in bytes (distribution-spec v1.1, "Pulling manifests").
	maxTag = 128
)

// ValidRepository reports whether name is a repository name by the grammar of
// distribution-spec v1.1 ("Pulling manifests"): components of lower-case letters
// and digits, held together by ".", "_", "__" or any number of "-", and
// separated by "/". At most 255 bytes in all.
//
// It runs on every request, so it is a scanner and not a regular expression.
func ValidRepository(name string) bool {
	if name == "" || len(name) > maxRepository {
		return false
	}
	for i := 0; ; {
		next := scanAlphanumeric(name, i)
		if next == i {
			return false // a component, and what follows a separator, starts with a letter or digit
		}
		if next == len(name) {
			return true
		}
		i = scanSeparator(name, next)
		if i == next {
			return false
		}
	}
}

// scanAlphanumeric returns the index after the run of [a-z0-9] that starts at i.
func scanAlphanumeric(s string, i int) int {
	for i < len(s) && (s[i] >= 'a' && s[i] <= 'z' || s[i] >= '0' && s[i] <= '9') {
		i++
	}
	return i
}

// scanSeparator returns the index after one separator at i, or i if there is none.
func scanSeparator(s string, i int) int {
	switch s[i] {
	case '/', '.':
		return i + 1
	case '_':
		if strings.HasPrefix(s[i:], "__") {
			return i + 2
		}
		return i + 1
	case '-':
		for i < len(s) && s[i] == '-' {
			i++
		}
	}
	return i
}

// ValidTag reports whether tag is a tag by the grammar of distribution-spec
// v1.1: a letter, digit or underscore, then up to 127 of those, "." and "-".
func ValidTag(tag string) bool {
	if tag == "" || len(tag) > maxTag || tag[0] == '.' || tag[0] == '-' {
		return false
	}
	for i := range len(tag) {
		switch c := tag[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return true
}

// ParseDigest accepts "sha256:" with 64 and "sha512:" with 128 lower-case
// hexadecimal digits, and nothing else: these are the two algorithms that
// image-spec v1.1 registers, and their encoding is fixed, so that a digest
// has exactly one spelling. The error does not repeat the input.
func ParseDigest(s string) (digest.Digest, error) {
	algorithm, hex, found := strings.Cut(s, ":")
	var length int
	switch {
	case !found:
		return "", fmt.Errorf("digest has no algorithm")
	case algorithm == string(digest.SHA256):
		length = 64
	case algorithm == string(digest.SHA512):
		length = 128
	default:
		return "", fmt.Errorf("digest algorithm is neither sha256 nor sha512")
	}
	if len(hex) != length {
		return "", fmt.Errorf("%s digest has %d digits instead of %d", algorithm, len(hex), length)
	}
	for i := range len(hex) {
		if c := hex[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", fmt.Errorf("%s digest is not lower-case hexadecimal", algorithm)
		}
	}
	return digest.Digest(s), nil
}

// NormalizeRepository returns the name under which an upstream knows a
// repository. Docker Hub keeps its official images in "library", and its
// clients add that component to a name without a slash; for every other
// upstream, and every other name, it is the name itself. upstreamName is the
// configured name, "docker.io".
func NormalizeRepository(upstreamName, repository string) string {
	if upstreamName == "docker.io" && !strings.Contains(repository, "/") {
		return "library/" + repository
	}
	return repository
}
