package accesstoken

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record"
)

// Kind is the kind of a token. It determines which fields are required.
type Kind string

const (
	// Personal tokens stand for an account.
	Personal Kind = "personal"
	// Group tokens have a role in a group.
	Group Kind = "group"
	// Deploy tokens can only pull from a group.
	Deploy Kind = "deploy"
)

// Scope is a permission of a token.
type Scope string

const (
	// Pull allows to read images. All tokens have it.
	Pull Scope = "pull"
	// Manage allows everything else that the role allows.
	Manage Scope = "manage"
)

// Owner identifies an account.
type Owner struct {
	Name      string `json:"name"`
	Directory string `json:"directory"`
	// Source is a fingerprint of the source of the directory when the token was
	// created. It is empty in tokens of earlier versions.
	Source string `json:"source,omitempty"`
	// Facts contains what the directory needs to look up the account again.
	Facts string `json:"facts,omitempty"`
}

// Token describes a token. It does not contain the secret. Texts are UTF-8 without
// control characters, of at most 255 bytes, and 1 KiB for the owner's facts.
type Token struct {
	// ID consists of 16 lower-case letters and digits.
	ID   string `json:"id"`
	Kind Kind   `json:"kind"`
	// Name is a description by the creator.
	Name string `json:"name,omitempty"`
	// Site is the name of the site that accepts the token. It may be empty.
	Site string `json:"site,omitempty"`
	// Owner is the account of a personal token, otherwise nil.
	Owner *Owner `json:"owner,omitempty"`
	// Groups are the groups that a personal token is limited to, at most 100; nil
	// means no limit. Other tokens have exactly one group.
	Groups []string `json:"groups,omitempty"`
	// Role is the role of a group token. This package does not interpret it.
	Role   string  `json:"role,omitempty"`
	Scopes []Scope `json:"scopes"`
	// Created and Expires are in UTC and whole seconds.
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	// CreatedBy names the creator, for information.
	CreatedBy string `json:"created_by,omitempty"`
	// MadeWith is the ID of the token whose bearer created this one, if any. The
	// caller rejects this token when that one has ended.
	MadeWith string `json:"made_with,omitempty"`

	// Revoked is when the token was revoked, if it was, and RevokedBy names who
	// revoked it, for information.
	Revoked   time.Time `json:"revoked,omitzero"`
	RevokedBy string    `json:"revoked_by,omitempty"`
	// LastUsed is the hour of the last use. Only [Store.List] sets it.
	LastUsed time.Time `json:"last_used,omitzero"`
}

const (
	minLifetime = time.Minute
	maxLifetime = 366 * 24 * time.Hour

	// Limits of texts in bytes, and of the number of groups.
	maxText   = 255
	maxFacts  = 1024
	maxGroups = 100
	// maxFile is the largest file that is parsed, in bytes.
	maxFile = 64 << 10
)

// MayManage reports whether the token has the scope [Manage].
func (t *Token) MayManage() bool { return slices.Contains(t.Scopes, Manage) }

// Valid returns nil if the token is valid at now, otherwise [ErrRevoked] or
// [ErrExpired].
func (t *Token) Valid(now time.Time) error {
	switch {
	case !t.Revoked.IsZero():
		return ErrRevoked
	case !now.Before(t.Expires):
		return ErrExpired
	}
	return nil
}

// check rejects a token whose fields are invalid or do not fit together.
func (t *Token) check() error {
	if err := t.checkTexts(); err != nil {
		return err
	}
	lifetime := t.Expires.Sub(t.Created)
	switch {
	case t.Kind != Personal && t.Kind != Group && t.Kind != Deploy:
		return fmt.Errorf("unknown kind; use %s, %s or %s", Personal, Group, Deploy)
	case (t.Kind == Personal) != (t.Owner != nil):
		return errors.New("personal tokens must have an owner, other tokens must not")
	case t.Owner != nil && (t.Owner.Name == "" || t.Owner.Directory == ""):
		return errors.New("the owner has no name or no directory")
	case t.Kind != Personal && len(t.Groups) != 1:
		return fmt.Errorf("a %s token must have exactly one group", t.Kind)
	case t.Groups != nil && (len(t.Groups) == 0 || len(t.Groups) > maxGroups || slices.Contains(t.Groups, "")):
		return fmt.Errorf("the number of groups is not between 1 and %d, or a group is empty", maxGroups)
	case (t.Kind == Group) != (t.Role != ""):
		return errors.New("group tokens must have a role, other tokens must not")
	case !slices.Contains(t.Scopes, Pull):
		return fmt.Errorf("the scope %s is missing; add it", Pull)
	case slices.ContainsFunc(t.Scopes, func(s Scope) bool { return s != Pull && s != Manage }):
		return fmt.Errorf("the scopes contain an unknown one; use %s or %s", Pull, Manage)
	case t.Kind == Deploy && t.MayManage():
		return fmt.Errorf("a deploy token is for pulling only; remove the scope %s", Manage)
	case t.MadeWith != "" && !IsID(t.MadeWith):
		return errors.New("made_with is not the ID of a token")
	case lifetime < minLifetime || lifetime > maxLifetime:
		return fmt.Errorf("lifetime %s is not between %s and %d days", lifetime, minLifetime, maxLifetime/(24*time.Hour))
	}
	return nil
}

func (t *Token) checkTexts() error {
	texts := append([]string{t.Name, t.Site, t.Role, t.CreatedBy}, t.Groups...)
	if t.Owner != nil {
		texts = append(texts, t.Owner.Name, t.Owner.Directory, t.Owner.Source)
		if !record.IsText(t.Owner.Facts, maxFacts) {
			return fmt.Errorf("the owner's facts are longer than %d bytes, are not UTF-8, or contain control characters", maxFacts)
		}
	}
	for _, text := range texts {
		if !record.IsText(text, maxText) {
			return fmt.Errorf("a name is longer than %d bytes, is not UTF-8, or contains control characters", maxText)
		}
	}
	return nil
}

// tokenFile is the content of a token's file.
type tokenFile struct {
	Token
	// SHA256 is the hash of the whole secret, in unpadded base64url.
	SHA256 string `json:"sha256"`
}

// revocation is the content of the file that revokes a token.
type revocation struct {
	Revoked   time.Time `json:"revoked"`
	RevokedBy string    `json:"revoked_by,omitempty"`
}

func encodeFile(t Token, sum [sha256.Size]byte) ([]byte, error) {
	return json.Marshal(tokenFile{t, base64.RawURLEncoding.EncodeToString(sum[:])})
}

// decodeFile parses the file of the token with the given ID, which must match the
// hash in the file. Errors do not quote the content.
func decodeFile(id string, content []byte) (t Token, sum [sha256.Size]byte, err error) {
	if len(content) > maxFile {
		return t, sum, fmt.Errorf("the file has %d bytes, more than %d", len(content), maxFile)
	}
	var file tokenFile
	if json.Unmarshal(content, &file) != nil {
		return t, sum, errors.New("the file is not a token in JSON")
	}
	hash, err := base64.RawURLEncoding.Strict().DecodeString(file.SHA256)
	if err != nil || len(hash) != len(sum) {
		return t, sum, errors.New("the hash is malformed")
	}
	sum = [sha256.Size]byte(hash)
	if file.ID != id || idOf(sum) != id {
		return t, sum, errors.New("the file name does not match the hash")
	}
	// These are stored in other files.
	file.Revoked, file.RevokedBy, file.LastUsed = time.Time{}, "", time.Time{}
	return file.Token, sum, file.check()
}
