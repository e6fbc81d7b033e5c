package accesstoken

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"hash/crc32"
	"math/big"
	"strings"
)

// Prefix is the beginning of all secrets. With the checksum at the end, it lets
// scanners of repositories and logs find leaked secrets by
// dpxy_[0-9A-Za-z]{39}.
const Prefix = "dpxy_"

const (
	base62     = 62
	randomSize = 24 // bytes
	bodyLen    = 33 // length of the random bytes in base 62
	sumLen     = 6  // length of a CRC-32 in base 62
	secretLen  = len(Prefix) + bodyLen + sumLen

	idSize = 10 // bytes of the hash
	idLen  = 16 // length of these bytes in base 32
)

var idEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// Parse reports whether text, such as a password, begins with [Prefix], and
// returns the ID of the token with that secret. The ID is empty if the secret is
// mistyped or truncated. Parse does not access the storage: the token may not exist.
func Parse(text string) (id string, hasPrefix bool) {
	if !isWellFormed(text) {
		return "", strings.HasPrefix(text, Prefix)
	}
	return idOf(sha256.Sum256([]byte(text))), true
}

// IsID reports whether text has the form of a token's ID: 16 lower-case letters
// and digits.
func IsID(text string) bool {
	if len(text) != idLen || strings.ToLower(text) != text {
		return false
	}
	_, err := idEncoding.DecodeString(strings.ToUpper(text))
	return err == nil && !strings.ContainsAny(text, "\r\n")
}

func newSecret() string {
	random := make([]byte, randomSize)
	_, _ = rand.Read(random) // never fails
	secret := Prefix + toBase62(new(big.Int).SetBytes(random), bodyLen)
	return secret + checksum(secret)
}

// isWellFormed reports whether secret has the form and the checksum of a secret.
func isWellFormed(secret string) bool {
	if len(secret) != secretLen || !strings.HasPrefix(secret, Prefix) {
		return false
	}
	for i := len(Prefix); i < len(secret); i++ {
		c := secret[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	body := secret[:secretLen-sumLen]
	return checksum(body) == secret[secretLen-sumLen:]
}

// checksum returns the last characters of a secret, which detect typing errors.
// They are not a protection against forged secrets.
func checksum(body string) string {
	return toBase62(new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(body)))), sumLen)
}

// toBase62 formats n with leading zeros.
func toBase62(n *big.Int, length int) string {
	digits := n.Text(base62)
	return strings.Repeat("0", length-len(digits)) + digits
}

// idOf returns the ID of the token whose secret has the given hash.
func idOf(sum [sha256.Size]byte) string {
	return strings.ToLower(idEncoding.EncodeToString(sum[:idSize]))
}
