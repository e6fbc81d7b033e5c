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
	// maxKeyFile bounds what is parsed as a key, in bytes. Ours are about 300.
	maxKeyFile = 4 << 10
	// nameTime is the creation time in a key's name: UTC, milliseconds, sorted
	// as text like in time.
	nameTime = "20060102T150405.000Z"
	// kidLen is the length of a SHA-256 in unpadded base64url.
	kidLen     = 43
	nameSuffix = ".json"
)

// b64 refuses what a second spelling of the same bytes would be made of.
var b64 = base64.RawURLEncoding.Strict()

// key is one signing key. All but gone is fixed from the start.
type key struct {
	kid     string
	created time.Time
	// end is when the last token that this key may have signed is dead; zero
	// means never. It is in the file and not computed from the configuration,
	// so that two sites with different lifetimes on one storage do not delete
	// each other's keys.
	end     time.Time
	private ed25519.PrivateKey
	public  ed25519.PublicKey

	// gone is set once the key has left storage; cached verifications that
	// lean on it die with it.
	gone atomic.Bool
}

// newKey makes a key that is to be in use from now on until end.
func newKey(now, end time.Time) (*key, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating a signing key: %w", err)
	}
	// The name holds milliseconds and must agree with the content.
	created := now.UTC().Truncate(time.Millisecond)
	if !end.IsZero() {
		end = end.UTC().Truncate(time.Millisecond)
	}
	return &key{kid: thumbprint(public), created: created, end: end, private: private, public: public}, nil
}

// thumbprint is the kid of a public key: its JWK thumbprint (RFC 7638, and
// RFC 8037 section 2 for which members count).
func thumbprint(public ed25519.PublicKey) string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + b64.EncodeToString(public) + `"}`))
	return b64.EncodeToString(sum[:])
}

// name is the key's file name. It contains the kid, so it is content-addressed:
// no two different keys ever have the same one.
func (k *key) name() string {
	return k.created.Format(nameTime) + "-" + k.kid + nameSuffix
}

// alive says whether tokens of this key may still be in use at now.
func (k *key) alive(now time.Time) bool {
	return !k.gone.Load() && (k.end.IsZero() || now.Before(k.end))
}

// parseName splits a file name into its parts; ok is false for the names of
// anything else, such as a storage's temporary files.
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

// isKid says whether kid could be the name of a key of ours. Nothing else is
// worth a look into storage.
func isKid(kid string) bool {
	if len(kid) != kidLen {
		return false
	}
	_, err := b64.DecodeString(kid)
	return err == nil && !strings.ContainsAny(kid, "\r\n")
}

// keyFile is a key as stored: a private JWK (RFC 8037 section 2), with two
// members of our own. Strangers to the format can read it as the JWK that it is.
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

// jwk is the public half, as published.
func (k *key) jwk() keyFile {
	return keyFile{Kty: "OKP", Crv: "Ed25519", Kid: k.kid, Use: "sig", Alg: "EdDSA", X: b64.EncodeToString(k.public)}
}

func (k *key) encode() ([]byte, error) {
	file := k.jwk()
	file.D = b64.EncodeToString(k.private.Seed())
	file.Created, file.End = k.created, k.end
	return json.Marshal(file)
}

// decodeKey reads the key file called name. Everything in it that could be
// wrong is checked against everything else: the public key against the private
// one, the kid against the public key, the name against both. Its errors say
// what does not fit and never quote the content.
func decodeKey(name string, content []byte) (*key, error) {
	created, kid, ok := parseName(path.Base(name))
	switch {
	case !ok:
		return nil, errors.New("not the name of a key")
	case len(content) > maxKeyFile:
		return nil, fmt.Errorf("%d bytes are too many for a key", len(content))
	}
	var file keyFile
	if json.Unmarshal(content, &file) != nil {
		return nil, errors.New("not JSON, or not a JWK")
	}
	if file.Kty != "OKP" || file.Crv != "Ed25519" {
		return nil, errors.New("not an Ed25519 JWK")
	}
	seed, err := b64.DecodeString(file.D)
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, errors.New("not an Ed25519 private key")
	}
	private := ed25519.NewKeyFromSeed(seed)
	k := &key{kid: kid, created: created, end: file.End, private: private, public: private.Public().(ed25519.PublicKey)}
	switch {
	case file.X != b64.EncodeToString(k.public):
		return nil, errors.New("the public key is not that of the private key")
	case file.Kid != kid || thumbprint(k.public) != kid:
		return nil, errors.New("the name is that of another key")
	case !file.Created.Equal(created):
		return nil, errors.New("the creation time is not that of the name")
	}
	return k, nil
}
