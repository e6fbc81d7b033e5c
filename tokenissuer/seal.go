package tokenissuer

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	// SealedLifetime is how long a sealed text can be opened.
	SealedLifetime = time.Hour

	// MaxSealed is the length of the longest text that can be sealed, in bytes.
	MaxSealed = 1 << 10

	// sealInfo separates the keys that seal from the signing keys that they are
	// derived from, and from any other use of these.
	sealInfo = "dependency_proxy sealed text v1"

	// sealOverhead is the length of what is sealed with a text: the nonce, the
	// time at which the text expires, and the authentication tag.
	sealOverhead = 12 + 8 + 16
)

var errSealed = &invalid{reason: "the sealed text was changed, or belongs to something else"}

// Seal encrypts and authenticates a text that a client is to return later but must
// neither read nor change, such as the address of the next page of a list. The result
// consists of letters, digits and "-_.", and has about 100 bytes more than four thirds
// of the text. Only [Issuer.Open] with the same values bound, at any node that shares
// the storage, returns the text, for an hour.
//
// The key is derived from the key that signs tokens (HKDF of RFC 5869, AES-256-GCM).
// A text can still be opened after keys are rotated, because a signing key is kept
// for at least the lifetime of a token, and cannot if its key is deleted.
//
// Seal returns an [ErrKeysUnavailable] if there is no key and the storage cannot
// provide one, and another error if the text is longer than [MaxSealed].
func (i *Issuer) Seal(ctx context.Context, text string, bound ...string) (string, error) {
	if len(text) > MaxSealed {
		return "", fmt.Errorf("sealing a text: it has %d bytes, more than %d", len(text), MaxSealed)
	}
	expires := i.ring.now().Add(SealedLifetime)
	k, err := i.ring.signer(ctx, expires)
	if err != nil {
		return "", fmt.Errorf("sealing a text: %w", err)
	}
	aead, err := k.sealer()
	if err != nil {
		return "", fmt.Errorf("sealing a text: %w", err)
	}
	plain := binary.BigEndian.AppendUint64(nil, uint64(expires.Unix()))
	sealed := aead.Seal(nil, nil, append(plain, text...), additional(bound))
	return k.kid + "." + b64.EncodeToString(sealed), nil
}

// Open returns the text that [Issuer.Seal] has sealed with the same values bound. It
// returns an [ErrInvalidToken] for anything else, which is an [ErrTokenExpired] too if
// only its time is over, and an [ErrKeysUnavailable] as [Issuer.Verify] does.
func (i *Issuer) Open(ctx context.Context, sealed string, bound ...string) (string, error) {
	kid, encoded, found := strings.Cut(sealed, ".")
	if !found || len(encoded) > b64.EncodedLen(MaxSealed+sealOverhead) || strings.ContainsAny(encoded, "\r\n") {
		return "", errMalformed
	}
	content, err := b64.DecodeString(encoded)
	if err != nil || len(content) < sealOverhead {
		return "", errMalformed
	}
	k := i.ring.keys.Load().verifier(kid, i.ring.now())
	if k == nil {
		if k, err = i.ring.find(ctx, kid); err != nil {
			return "", fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
		}
		if k == nil {
			return "", errUnknownKey
		}
	}
	aead, err := k.sealer()
	if err != nil {
		return "", fmt.Errorf("opening a sealed text: %w", err)
	}
	plain, err := aead.Open(nil, nil, content, additional(bound))
	if err != nil {
		return "", errSealed
	}
	expires := time.Unix(int64(binary.BigEndian.Uint64(plain)), 0)
	if now := i.ring.now(); !now.Before(expires) {
		return "", errExpired
	}
	return string(plain[8:]), nil
}

// sealer returns the cipher that is derived from the key.
func (k *key) sealer() (cipher.AEAD, error) {
	secret, err := hkdf.Key(sha256.New, k.private.Seed(), nil, sealInfo, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err == nil && aead.Overhead() != sealOverhead-8 {
		err = errors.New("the cipher has another overhead")
	}
	return aead, err
}

// additional returns the data that authenticates the values to which a text is bound,
// unambiguously.
func additional(bound []string) []byte {
	var data []byte
	for _, value := range bound {
		data = binary.AppendUvarint(data, uint64(len(value)))
		data = append(data, value...)
	}
	return data
}
