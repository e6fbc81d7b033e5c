package ldap

import (
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

// roles are the groups of the server that the configuration maps.
type roles []mappedGroup

// mappedGroup is a group of the server with the role that it gives, or that it makes its
// members admins.
type mappedGroup struct {
	key         string // of its DN
	id          string // short, for facts
	group, role string // as in a map line
	admin       bool
}

func newRoles(mapped []*Group, admins []string) roles {
	var roles roles
	for _, g := range mapped {
		key := dnKey(g.DN)
		roles = append(roles, mappedGroup{key: key, id: groupID(key), group: g.Group, role: g.Role})
	}
	for _, dn := range admins {
		key := dnKey(dn)
		roles = append(roles, mappedGroup{key: key, id: groupID(key), admin: true})
	}
	return roles
}

func groupID(key string) string {
	sum := sha256.Sum256([]byte(key))
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

// give gives an account the roles of the groups that it is in, and returns their ids.
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
		account.Map(g.group, g.role)
	}
	return ids
}

const (
	// factsFor is how long after a login its facts are valid, if the account cannot be
	// looked up.
	factsFor = 24 * time.Hour
	// factsLen is the limit on encoded facts, in bytes, which leaves room for the
	// source.
	factsLen = directory.MaxFacts - 16
)

// encodeFacts returns the time of a login, the version of the account and the ids of the
// mapped groups that it is in. At each request, the configuration says which roles these
// give.
func encodeFacts(account directory.Account, ids []string, now time.Time) (string, error) {
	words := append([]string{strconv.FormatInt(now.Unix(), 10), account.Version}, ids...)
	facts := strings.Join(words, " ")
	if len(facts) > factsLen {
		return "", fmt.Errorf("%s is in too many mapped groups to store; write bind_dn, so that they can be searched for", account.Name)
	}
	return facts, nil
}

// fromFacts returns an account with the facts of its login. It is unknown without facts,
// and when they are no longer valid.
func (r roles) fromFacts(name, facts string, now time.Time) (directory.Account, error) {
	words := strings.Fields(facts)
	if len(words) < 2 {
		return directory.Account{}, fmt.Errorf("%w: it is known only after a login", directory.ErrUnknownAccount)
	}
	seconds, err := strconv.ParseInt(words[0], 10, 64)
	if err != nil {
		return directory.Account{}, errors.Join(directory.ErrUnknownAccount, err)
	}
	if err := directory.CheckAge("the login", time.Unix(seconds, 0), "the limit", factsFor, now); err != nil {
		return directory.Account{}, fmt.Errorf("%w: %w", directory.ErrUnknownAccount, err)
	}
	account := directory.Account{Name: name, Version: words[1], Facts: facts}
	r.give(&account, func(g mappedGroup) bool { return slices.Contains(words[2:], g.id) })
	return account, nil
}
