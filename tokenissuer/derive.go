package tokenissuer

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io/fs"
)

// deriveInfo separates derived secrets from the signing keys, and from the keys that seal
// texts.
const deriveInfo = "dependency_proxy derived secret v1 "

// Derived returns a function that returns a secret of 32 bytes for a purpose, and its
// id: the one that is derived from the key which signs tokens now, or the one with the
// given id unless that is empty. All nodes that share the storage derive the same ones
// (HKDF of RFC 5869, SHA-256). A secret is gone when its key is deleted: after a
// rotation and the lifetime of the longest token. What is to last longer must be written
// again under the secret in use.
//
// The error is fs.ErrNotExist if there is no key with the id, and an
// [ErrKeysUnavailable] if the storage cannot provide the keys.
func (i *Issuer) Derived(purpose string) func(ctx context.Context, id string) (known string, secret []byte, err error) {
	return func(ctx context.Context, id string) (string, []byte, error) {
		k, err := i.derivable(ctx, id)
		if err != nil {
			return "", nil, fmt.Errorf("deriving a secret: %w", err)
		}
		secret, err := hkdf.Key(sha256.New, k.private.Seed(), nil, deriveInfo+purpose, sha256.Size)
		return k.kid, secret, err
	}
}

func (i *Issuer) derivable(ctx context.Context, id string) (*key, error) {
	now := i.ring.now()
	if id == "" {
		return i.ring.signer(ctx, now.Add(SealedLifetime))
	}
	if k := i.ring.keys.Load().verifier(id, now); k != nil {
		return k, nil
	}
	k, err := i.ring.find(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
	}
	if k == nil {
		return nil, fmt.Errorf("key %q: %w", id, fs.ErrNotExist)
	}
	return k, nil
}
