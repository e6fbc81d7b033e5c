package accesstoken

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"
)

// Kind is what a token stands for.
type Kind string

const (
	// Personal tokens stand for an account.
	Personal Kind = "personal"
	// Group tokens have a role in a group.
	Group Kind = "group"
	// Deploy tokens pull from a group and can do nothing else.
	Deploy Kind = "deploy"
)

// Scope is something that a token may be used for.
type Scope string

const (
	// Pull is reading images.
	Pull Scope = "pull"
	// Manage is all that the role allows beyond it.
	Manage Scope = "manage"
)

// Owner is an account as its directory knows it.
type Owner struct {
	Name      string `json:"name"`
	Directory string `json:"directory"`
	// Source is a fingerprint of what the directory was of when the token was
	// made; empty in tokens of earlier versions.
	Source string `json:"source,omitempty"`
	// Facts are what the directory wants to hear again at a look-up.
	Facts string `json:"facts,omitempty"`
}

// Token is what is known about a token. There is no secret in it.
type Token struct {
	// ID names the token: 16 lower-case letters and digits.
	ID   string `json:"id"`
	Kind Kind   `json:"kind"`
	// Name is what its maker calls it.
	Name string `json:"name,omitempty"`
	// Site is the site that the token is good at; may be empty.
	Site string `json:"site,omitempty"`
	// Owner is whom a personal token stands for, else nil.
	Owner *Owner `json:"owner,omitempty"`
	// Groups are those that a personal token is limited to, nil meaning that
	// it is not, or the one group of any other token.
	Groups []string `json:"groups,omitempty"`
	// Role is that of a group token, as the caller calls it.
	Role   string  `json:"role,omitempty"`
	Scopes []Scope `json:"scopes"`
	// Created and Expires are in UTC and whole seconds.
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	// CreatedBy is who made it, for the record only.
	CreatedBy string `json:"created_by,omitempty"`
	// MadeWith is the id of the token that it was made with, if it was. It is
	// meant to be good no longer than that.
	MadeWith string `json:"made_with,omitempty"`

	// Revoked is when the token was revoked, if it was, and RevokedBy by whom.
	Revoked   time.Time `json:"revoked,omitzero"`
	RevokedBy string    `json:"revoked_by,omitempty"`
	// LastUsed is the hour in which it was last used. Only [Store.List]
	// and [Store.Get] fill it in.
	LastUsed time.Time `json:"last_used,omitzero"`
}

const (
	// MinLifetime and MaxLifetime bound the life of a token: each ends by
	// itself, at the latest after a leap year.
	MinLifetime = time.Minute
	MaxLifetime = 366 * 24 * time.Hour

	// Limits of a token's texts, in bytes, and of its groups.
	maxText   = 255
	maxFacts  = 1024
	maxGroups = 100
	// maxFile bounds what is parsed as a token, in bytes.
	maxFile = 64 << 10
)

// MayManage tells whether the token is for more than pulling.
func (t *Token) MayManage() bool { return slices.Contains(t.Scopes, Manage) }

// Valid is nil if the token is good at a time, else the reason.
func (t *Token) Valid(now time.Time) error {
	switch {
	case !t.Revoked.IsZero():
		return ErrRevoked
	case !now.Before(t.Expires):
		return ErrExpired
	}
	return nil
}

// check refuses a token that contradicts itself.
func (t *Token) check() error {
	if err := t.checkTexts(); err != nil {
		return err
	}
	lifetime := t.Expires.Sub(t.Created)
	switch {
	case t.Kind != Personal && t.Kind != Group && t.Kind != Deploy:
		return fmt.Errorf("the kind is neither %s, %s nor %s", Personal, Group, Deploy)
	case (t.Kind == Personal) != (t.Owner != nil):
		return errors.New("a personal token has an owner, and no other token has one")
	case t.Owner != nil && (t.Owner.Name == "" || t.Owner.Directory == ""):
		return errors.New("the owner has no name or no directory")
	case t.Kind != Personal && len(t.Groups) != 1:
		return fmt.Errorf("a %s token has one group", t.Kind)
	case t.Groups != nil && (len(t.Groups) == 0 || len(t.Groups) > maxGroups || slices.Contains(t.Groups, "")):
		return fmt.Errorf("the groups are none, more than %d, or empty", maxGroups)
	case (t.Kind == Group) != (t.Role != ""):
		return errors.New("a group token has a role, and no other token has one")
	case !slices.Contains(t.Scopes, Pull):
		return fmt.Errorf("the scopes lack %s", Pull)
	case slices.ContainsFunc(t.Scopes, func(s Scope) bool { return s != Pull && s != Manage }):
		return fmt.Errorf("the scopes are other than %s and %s", Pull, Manage)
	case t.Kind == Deploy && t.MayManage():
		return errors.New("a deploy token is for pulling only")
	case t.MadeWith != "" && !IsID(t.MadeWith):
		return errors.New("what the token was made with is not the id of a token")
	case lifetime < MinLifetime || lifetime > MaxLifetime:
		return fmt.Errorf("a lifetime of %s is not between %s and %d days", lifetime, MinLifetime, MaxLifetime/(24*time.Hour))
	}
	return nil
}

func (t *Token) checkTexts() error {
	texts := append([]string{t.Name, t.Site, t.Role, t.CreatedBy}, t.Groups...)
	if t.Owner != nil {
		texts = append(texts, t.Owner.Name, t.Owner.Directory, t.Owner.Source)
		if !isText(t.Owner.Facts, maxFacts) {
			return fmt.Errorf("the owner's facts are longer than %d bytes, not UTF-8, or have control characters", maxFacts)
		}
	}
	for _, text := range texts {
		if !isText(text, maxText) {
			return fmt.Errorf("a name is longer than %d bytes, not UTF-8, or has control characters", maxText)
		}
	}
	return nil
}

func isText(s string, limit int) bool {
	if len(s) > limit || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return false
		}
	}
	return true
}

// tokenFile is a token as stored.
type tokenFile struct {
	Token
	// SHA256 is that of the whole secret, in base64url without padding.
	SHA256 string `json:"sha256"`
}

// tombstone is the file beside a revoked token.
type tombstone struct {
	Revoked   time.Time `json:"revoked"`
	RevokedBy string    `json:"revoked_by,omitempty"`
}

func encodeFile(t Token, sum [sha256.Size]byte) ([]byte, error) {
	return json.Marshal(tokenFile{t, base64.RawURLEncoding.EncodeToString(sum[:])})
}

// decodeFile reads the file of the token that is called id. The hash in it must
// be the one that the id is the beginning of. Errors do not quote the content.
func decodeFile(id string, content []byte) (t Token, sum [sha256.Size]byte, err error) {
	if len(content) > maxFile {
		return t, sum, fmt.Errorf("%d bytes are too many for a token", len(content))
	}
	var file tokenFile
	if json.Unmarshal(content, &file) != nil {
		return t, sum, errors.New("not JSON, or not a token")
	}
	hash, err := base64.RawURLEncoding.Strict().DecodeString(file.SHA256)
	if err != nil || len(hash) != len(sum) {
		return t, sum, errors.New("not a hash")
	}
	sum = [sha256.Size]byte(hash)
	if file.ID != id || idOf(sum) != id {
		return t, sum, errors.New("the name is that of another token")
	}
	// These are other files' business.
	file.Revoked, file.RevokedBy, file.LastUsed = time.Time{}, "", time.Time{}
	return file.Token, sum, file.check()
}
