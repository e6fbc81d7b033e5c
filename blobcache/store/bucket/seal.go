package bucket

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// A record is stored as a line and the value:
//
//	dependency_proxy record v1 ID MAC
//	VALUE
//
// MAC is HMAC-SHA-256 (RFC 2104) of the name of the object and the value, in
// base64url without padding, under the key with the id.
const sealedPrefix = "dependency_proxy record v1 "

// maxRecord is the size in bytes of the largest record that is read from a bucket.
const maxRecord = 64 << 10

// errForged means that an object is not a record that a node of the cluster has
// written under its name. It is also a store.ErrDamaged unless the object names a key that
// this node does not know, or does not know yet.
var errForged = errors.New("the record in the bucket has no valid authentication code, and is ignored")

// errDamaged is an errForged that no key can make valid.
var errDamaged = damaged{errForged}

type damaged struct{ error }

func (d damaged) Unwrap() error        { return d.error }
func (d damaged) Is(target error) bool { return target == store.ErrDamaged }

// seal returns the content of the object for a record.
func (s *Store) seal(ctx context.Context, name string, value []byte) ([]byte, error) {
	id, key, err := s.config.Keys(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("the key that authenticates records: %w", err)
	}
	sealed := make([]byte, 0, len(sealedPrefix)+len(id)+48+len(value))
	sealed = append(sealed, sealedPrefix...)
	sealed = append(sealed, id...)
	sealed = append(sealed, ' ')
	sealed = base64.RawURLEncoding.AppendEncode(sealed, code(key, name, value))
	sealed = append(sealed, '\n')
	return append(sealed, value...), nil
}

// open returns the value of a record that [Store.seal] has sealed under the same name,
// and whether that was under the key in use. The error is errForged if it was not
// sealed so, and another one if the keys cannot be asked.
func (s *Store) open(ctx context.Context, name string, sealed []byte) (value []byte, current bool, err error) {
	head, value, found := bytes.Cut(sealed, []byte{'\n'})
	fields := strings.Split(strings.TrimPrefix(string(head), sealedPrefix), " ")
	if !found || !bytes.HasPrefix(head, []byte(sealedPrefix)) || len(fields) != 2 || fields[0] == "" {
		return nil, false, errDamaged
	}
	_, key, err := s.config.Keys(ctx, fields[0])
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, errForged
	}
	if err != nil {
		return nil, false, fmt.Errorf("the key that authenticates records: %w", err)
	}
	mac, err := base64.RawURLEncoding.DecodeString(fields[1])
	if err != nil || !hmac.Equal(mac, code(key, name, value)) {
		return nil, false, errDamaged
	}
	id, _, err := s.config.Keys(ctx, "")
	return value, err != nil || id == fields[0], nil
}

// code returns the authentication code of a record.
func code(key []byte, name string, value []byte) []byte {
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write(binary.AppendUvarint([]byte(sealedPrefix), uint64(len(name))))
	_, _ = mac.Write([]byte(name))
	_, _ = mac.Write(value)
	return mac.Sum(nil)
}
