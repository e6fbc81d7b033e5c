package tokenissuer

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// maxKeyFile is the largest key file that is parsed, in bytes. Keys have
	// about 300.
	maxKeyFile = 4 << 10
	// nameTime is the format of the creation time in a file name: UTC, in
	// milliseconds, so that names sort by time.
	nameTime = "20060102T150405.000Z"
	// kidLen is the length of a SHA-256 in unpadded base64url.
	kidLen     = 43
	nameSuffix = ".json"
)

// b64 is unpadded base64url, which in strict mode has one encoding for each
// sequence of bytes.
var b64 = base64.RawURLEncoding.Strict()

// key is a signing key. All fields except removed are immutable.
type key struct {
	kid     string
	created time.Time
	// end is when the last token that the key may have signed has expired; zero
	// means never. It is stored in the file rather than computed from the
	// configuration, so that two sites with different lifetimes that share a
	// storage do not delete each other's keys.
	end     time.Time
	private ed25519.PrivateKey
	public  ed25519.PublicKey

	// removed is set when the key has been deleted from the storage. It
	// invalidates the remembered tokens that the key has signed.
	removed atomic.Bool
}

// newKey generates a key that is valid from now until end.
func newKey(now, end time.Time) (*key, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating a signing key: %w", err)
	}
	// The file name contains milliseconds and must match the content.
	created := now.UTC().Truncate(time.Millisecond)
	if !end.IsZero() {
		end = end.UTC().Truncate(time.Millisecond)
	}
	return &key{kid: thumbprint(public), created: created, end: end, private: private, public: public}, nil
}

// thumbprint returns the kid of a public key: its JWK thumbprint (RFC 7638, with
// the members that RFC 8037 section 2 requires).
func thumbprint(public ed25519.PublicKey) string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + b64.EncodeToString(public) + `"}`))
	return b64.EncodeToString(sum[:])
}

// name returns the name of the key's file. It contains the kid, so different
// keys have different names.
func (k *key) name() string {
	return k.created.Format(nameTime) + "-" + k.kid + nameSuffix
}

// usable reports whether the key still verifies tokens at now.
func (k *key) usable(now time.Time) bool {
	return !k.removed.Load() && (k.end.IsZero() || now.Before(k.end))
}

// parseName splits the name of a key file into its parts. ok is false for other
// names, such as those of a storage's temporary files.
func parseName(name string) (created time.Time, kid string, ok bool) {
	stem, isKey := strings.CutSuffix(name, nameSuffix)
	if !isKey || len(stem) != len(nameTime)+1+kidLen || stem[len(nameTime)] != '-' {
		return time.Time{}, "", false
	}
	created, err := time.Parse(nameTime, stem[:len(nameTime)])
	kid = stem[len(nameTime)+1:]
	if err != nil || !isKid(kid) {
		return time.Time{}, "", false
	}
	return created, kid, true
}

// isKid reports whether kid has the form of a kid of this package.
func isKid(kid string) bool {
	if len(kid) != kidLen {
		return false
	}
	_, err := b64.DecodeString(kid)
	return err == nil && !strings.ContainsAny(kid, "\r\n")
}

// keyFile is the stored form of a key: a private JWK (RFC 8037 section 2) with
// two additional members, which other readers of JWKs ignore.
type keyFile struct {
	Kty     string    `json:"kty"`
	Crv     string    `json:"crv"`
	Kid     string    `json:"kid"`
	Use     string    `json:"use"`
	Alg     string    `json:"alg"`
	X       string    `json:"x"`
	D       string    `json:"d,omitempty"`
	Created time.Time `json:"created,omitzero"`
	End     time.Time `json:"end,omitzero"`
}

// jwk returns the public key in its published form.
func (k *key) jwk() keyFile {
	return keyFile{Kty: "OKP", Crv: "Ed25519", Kid: k.kid, Use: "sig", Alg: "EdDSA", X: b64.EncodeToString(k.public)}
}

func (k *key) encode() ([]byte, error) {
	file := k.jwk()
	file.D = b64.EncodeToString(k.private.Seed())
	file.Created, file.End = k.created, k.end
	return json.Marshal(file)
}

// decodeKey parses the key file with the given name. The public key must match
// the private one, the kid the public key, and the name both the kid and the
// creation time. Errors do not quote the content.
func decodeKey(name string, content []byte) (*key, error) {
	created, kid, ok := parseName(path.Base(name))
	switch {
	case !ok:
		return nil, errors.New("not the name of a signing key")
	case len(content) > maxKeyFile:
		return nil, fmt.Errorf("the file has %d bytes, more than %d", len(content), maxKeyFile)
	}
	var file keyFile
	if json.Unmarshal(content, &file) != nil {
		return nil, errors.New("the file is not a JWK")
	}
	if file.Kty != "OKP" || file.Crv != "Ed25519" {
		return nil, errors.New("the JWK is not an Ed25519 key")
	}
	seed, err := b64.DecodeString(file.D)
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, errors.New("the JWK does not contain a valid Ed25519 private key")
	}
	private := ed25519.NewKeyFromSeed(seed)
	k := &key{kid: kid, created: created, end: file.End, private: private, public: private.Public().(ed25519.PublicKey)}
	switch {
	case file.X != b64.EncodeToString(k.public):
		return nil, errors.New("the public key does not match the private key")
	case file.Kid != kid || thumbprint(k.public) != kid:
		return nil, errors.New("the file name does not match the public key")
	case !file.Created.Equal(created):
		return nil, errors.New("the file name does not match the creation time")
	}
	return k, nil
}
