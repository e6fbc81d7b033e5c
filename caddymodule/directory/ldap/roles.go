package ldap

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// roles are what groups of an LDAP directory are good for here.
type roles []mappedGroup

type mappedGroup struct {
	key   string // of its DN
	id    string // short, for facts
	role  directory.Role
	group string
	admin bool
}

func newRoles(mapped []*Group, admins []string) roles {
	var roles roles
	for _, g := range mapped {
		key := dnKey(g.DN)
		role, _ := directory.ParseRole(cmp.Or(g.Role, "member"))
		roles = append(roles, mappedGroup{key: key, id: groupID(key), role: role, group: g.Group})
	}
	for _, dn := range admins {
		key := dnKey(dn)
		roles = append(roles, mappedGroup{key: key, id: groupID(key), admin: true})
	}
	return roles
}

// MappedGroups implements Mapping.
func (l *Directory) MappedGroups() (groups []string) {
	for _, g := range l.Map {
		groups = append(groups, g.Group)
	}
	return groups
}

func groupID(key string) string {
	sum := sha256.Sum256([]byte(key))
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

// give an account the roles of the groups that it is in, and return the ids of
// those.
func (r roles) give(account *directory.Account, in func(mappedGroup) bool) (ids []string) {
	for _, g := range r {
		if !in(g) {
			continue
		}
		if !slices.Contains(ids, g.id) {
			ids = append(ids, g.id)
		}
		if g.admin {
			account.Admin = true
			continue
		}
		if account.Mapped == nil {
			account.Mapped = make(map[string]directory.Role)
		}
		account.Mapped[g.group] = max(account.Mapped[g.group], g.role)
	}
	return ids
}

const (
	// ldapFactsFor is how long what a login told is believed where nothing can
	// be asked later, whatever a token's lifetime.
	ldapFactsFor = 24 * time.Hour
	// factsLen is how long these may be, in bytes, so that there is room for
	// the servers' name.
	factsLen = directory.MaxFacts - 16
)

// encodeFacts are the time of a login, the account's version and the mapped
// groups that it is in. What those are good for is the configuration's to say
// at each request.
func encodeFacts(account directory.Account, ids []string, now time.Time) (string, error) {
	words := append([]string{strconv.FormatInt(now.Unix(), 10), account.Version}, ids...)
	facts := strings.Join(words, " ")
	if len(facts) > factsLen {
		return "", fmt.Errorf("%s is in too many groups that are mapped; write bind_dn, so that they can be searched for", account.Name)
	}
	return facts, nil
}

// fromFacts is an account as its login has told. Without a login, or long after
// it, it is not known.
func (r roles) fromFacts(name, facts string, now time.Time) (directory.Account, error) {
	words := strings.Fields(facts)
	if len(words) < 2 {
		return directory.Account{}, fmt.Errorf("%w: it is known by its login only", directory.ErrUnknownAccount)
	}
	seconds, err := strconv.ParseInt(words[0], 10, 64)
	if err != nil {
		return directory.Account{}, errors.Join(directory.ErrUnknownAccount, err)
	}
	if now.Sub(time.Unix(seconds, 0)) > ldapFactsFor {
		return directory.Account{}, fmt.Errorf("%w: its login is too long ago", directory.ErrUnknownAccount)
	}
	account := directory.Account{Name: name, Version: words[1], Facts: facts}
	r.give(&account, func(g mappedGroup) bool { return slices.Contains(words[2:], g.id) })
	return account, nil
}
