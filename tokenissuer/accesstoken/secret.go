package accesstoken

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"hash/crc32"
	"math/big"
	"strings"
)

// Prefix begins every secret. It and the checksum at the end let scanners of
// repositories and logs find a leaked one, by dpxy_[0-9A-Za-z]{39}, and let a
// typo be told without a look into storage.
const Prefix = "dpxy_"

const (
	base62     = 62
	randomSize = 24 // bytes
	bodyLen    = 33 // of them in base 62
	sumLen     = 6  // of a CRC-32 in base 62
	secretLen  = len(Prefix) + bodyLen + sumLen

	idSize = 10 // bytes of the hash
	idLen  = 16 // of them in base 32
)

var idEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// IsOurs tells whether a password is meant to be a secret of this package. It
// need not be a good one.
func IsOurs(password string) bool { return strings.HasPrefix(password, Prefix) }

// IDOf is the id of the token whose secret this is; "" if it cannot be one,
// because it is mistyped or cut. That there is such a token is not said.
func IDOf(secret string) string {
	if !wellFormed(secret) {
		return ""
	}
	return idOf(sha256.Sum256([]byte(secret)))
}

// IsID tells whether a text has the form of a token's id: 16 lower-case letters
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
	secret := Prefix + inBase62(new(big.Int).SetBytes(random), bodyLen)
	return secret + checksum(secret)
}

func wellFormed(secret string) bool {
	if len(secret) != secretLen || !IsOurs(secret) {
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

// checksum finds typos; it is no signature and keeps nobody out.
func checksum(body string) string {
	return inBase62(new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(body)))), sumLen)
}

// inBase62 is a number with zeros before it up to a length.
func inBase62(n *big.Int, length int) string {
	digits := n.Text(base62)
	return strings.Repeat("0", length-len(digits)) + digits
}

func idOf(sum [sha256.Size]byte) string {
	return strings.ToLower(idEncoding.EncodeToString(sum[:idSize]))
}
