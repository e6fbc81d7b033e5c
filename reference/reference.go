// Package reference checks image references: repository names, tags and
// digests.
//
// The grammar is that of the OCI distribution specification v1.1 ("Pulling
// manifests") and, for digests, of the OCI image specification v1.1
// ("Digests"). Callers check every name before it reaches the disk, a URL or a
// log. An accepted name has only printable ASCII characters, and no path
// component of it is empty, "." or "..". Each reference has exactly one spelling,
// so names can be compared as strings.
//
// The package holds only this vocabulary, so that code that parses requests or
// configurations needs no registry client. It does no I/O and keeps no state.
package reference

import (
	_ "crypto/sha256" // go-digest offers only the hashes that are linked in
	_ "crypto/sha512"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

const (
	// maxRepository is the maximum length of a repository name in bytes. The
	// distribution specification leaves the limit to registries; clients and
	// registries in use accept 255.
	maxRepository = 255

	// maxTag is the maximum length of a tag in bytes (distribution-spec v1.1,
	// "Pulling manifests").
	maxTag = 128
)

// ValidRepository reports whether name is a repository name of
// distribution-spec v1.1, "Pulling manifests": components of lower-case letters
// and digits, joined by ".", "_", "__" or any number of "-", and separated by
// "/". A name has at most 255 bytes.
//
// ValidRepository scans the name instead of matching a regular expression
// because it runs on every request.
func ValidRepository(name string) bool {
	if name == "" || len(name) > maxRepository {
		return false
	}
	for i := 0; ; {
		next := scanAlphanumeric(name, i)
		if next == i {
			return false // components start and end with a letter or digit
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

// scanAlphanumeric returns the index after the run of [a-z0-9] that starts at
// i, which is i for an empty run.
func scanAlphanumeric(s string, i int) int {
	for i < len(s) && (s[i] >= 'a' && s[i] <= 'z' || s[i] >= '0' && s[i] <= '9') {
		i++
	}
	return i
}

// scanSeparator returns the index after the separator that starts at i, or i if
// s[i] is not a separator.
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

// ValidTag reports whether tag is a tag of distribution-spec v1.1, "Pulling
// manifests": a letter, digit or underscore, followed by at most 127 letters,
// digits, underscores, periods and hyphens.
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

// ParseDigest returns s as a digest. It accepts "sha256:" with 64 and "sha512:"
// with 128 lower-case hexadecimal digits, the two algorithms that image-spec
// v1.1 registers ("Registered algorithms"), so every digest has exactly one
// spelling. The error does not repeat s.
func ParseDigest(s string) (digest.Digest, error) {
	algorithm, hex, found := strings.Cut(s, ":")
	var length int
	switch {
	case !found:
		return "", errors.New("missing digest algorithm; use sha256:HEX or sha512:HEX")
	case algorithm == string(digest.SHA256):
		length = 64
	case algorithm == string(digest.SHA512):
		length = 128
	default:
		return "", errors.New("unknown digest algorithm; use sha256 or sha512")
	}
	if len(hex) != length {
		return "", fmt.Errorf("%s digest has %d digits, want %d", algorithm, len(hex), length)
	}
	for i := range len(hex) {
		if c := hex[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", fmt.Errorf("%s digest must be lower-case hexadecimal", algorithm)
		}
	}
	return digest.Digest(s), nil
}

// NormalizeRepository returns the name under which an upstream stores a
// repository. If upstream is "docker.io", a name without a slash gets the
// prefix "library/", where Docker Hub keeps its official images; Docker's
// clients do the same. Any other name is returned unchanged.
func NormalizeRepository(upstream, repository string) string {
	if upstream == "docker.io" && !strings.Contains(repository, "/") {
		return "library/" + repository
	}
	return repository
}

// CanonicalRegistry returns the host by which references name a registry. It is
// "docker.io" for the other hosts of Docker Hub that clients know,
// "index.docker.io" and "registry-1.docker.io". Any other host is returned
// unchanged.
func CanonicalRegistry(host string) string {
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		return "docker.io"
	}
	return host
}
