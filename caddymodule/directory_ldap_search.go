package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// ldapGroups is how many groups an account may be in; Active Directory tells
// no more at once.
const ldapGroups = 1000

// errSeveralEntries is about a name that is not one account's.
var errSeveralEntries = errors.New("user_filter finds more than one entry")

// ldapEntry is the entry of an account.
type ldapEntry struct {
	dn   string
	name string
	id   string // stays the same while it is the same entry

	// marker changes with the password; empty if nothing tells of that.
	marker string
}

// same is equal for the same entry: it changes when another one has got the name.
func (e ldapEntry) same() string { return ldapSum("ldap account\x00" + e.id) }

// version changes with the entry and with its password.
func (e ldapEntry) version() string {
	if e.marker == "" {
		return e.same()
	}
	return ldapSum("ldap password\x00" + e.id + "\x00" + e.marker)
}

func ldapSum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// find searches for the entry of an account.
func (l *LDAPDirectory) find(ctx context.Context, name string) (entry ldapEntry, err error) {
	err = l.pool.use(ctx, true, func(c *ldapConn) error {
		entry, err = l.findWith(c, name)
		return err
	})
	return entry, err
}

func (l *LDAPDirectory) userDN(name string) string {
	return strings.ReplaceAll(l.UserDN, "%s", ldap.EscapeDN(name))
}

// idAttrs are what servers tell entries apart by, whatever their names.
var idAttrs = []string{"entryUUID", "objectGUID", "nsUniqueId"}

func (l *LDAPDirectory) findWith(c *ldapConn, name string) (ldapEntry, error) {
	base, scope := l.BaseDN, ldap.ScopeWholeSubtree
	if l.UserDN != "" {
		base, scope = l.userDN(name), ldap.ScopeBaseObject
	}
	filter := "(objectClass=*)"
	if l.UserFilter != "" {
		filter = strings.ReplaceAll(l.UserFilter, "%s", ldap.EscapeFilter(name))
	}
	// Servers tell operational attributes only to those who name them.
	result, err := c.search(base, scope, 2, filter, slices.Concat([]string{l.AccountAttr}, idAttrs, l.markers()))
	switch {
	case scope == ldap.ScopeBaseObject && ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		return ldapEntry{}, ErrUnknownAccount
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) || err == nil && len(result.Entries) > 1:
		return ldapEntry{}, errSeveralEntries
	case err != nil:
		return ldapEntry{}, fmt.Errorf("searching for an account: %w", err)
	case len(result.Entries) == 0:
		return ldapEntry{}, ErrUnknownAccount
	}
	return l.readEntry(result.Entries[0], name)
}

func (l *LDAPDirectory) readEntry(found *ldap.Entry, name string) (ldapEntry, error) {
	entry := ldapEntry{dn: found.DN, id: "dn " + ldapKey(found.DN)}
	names := found.GetEqualFoldAttributeValues(l.AccountAttr)
	switch {
	case len(names) != 1:
		return entry, fmt.Errorf("the entry %s has %d values of %s instead of one", found.DN, len(names), l.AccountAttr)
	case !validLDAPName(names[0]):
		return entry, fmt.Errorf("the entry %s has a name that cannot be used: %q", found.DN, names[0])
	case l.UserDN != "" && !strings.EqualFold(names[0], name):
		return entry, fmt.Errorf("user_dn leads from %q to the account %q", name, names[0])
	}
	entry.name = names[0]
	for _, attr := range idAttrs {
		if id := found.GetEqualFoldRawAttributeValue(attr); len(id) > 0 {
			entry.id = attr + " " + string(id)
			break
		}
	}
	entry.marker = l.readMarker(found)
	return entry, nil
}

// withGroups makes an account of its entry and the groups that it is in, and
// returns the ids of those that matter.
func (l *LDAPDirectory) withGroups(c *ldapConn, entry ldapEntry) (account Account, ids []string, err error) {
	// As a fact it binds access tokens too to the entry, not to whoever gets its name.
	account = Account{Name: entry.name, Version: entry.version(), Facts: entry.same()}
	if entry.marker == "" {
		account.RefreshFor = unmarkedRefresh
	}
	if len(l.roles) == 0 {
		return account, nil, nil
	}
	filter := strings.NewReplacer("%s", ldap.EscapeFilter(entry.dn), "%u", ldap.EscapeFilter(entry.name)).Replace(l.GroupFilter)
	result, err := c.search(l.GroupBaseDN, ldap.ScopeWholeSubtree, ldapGroups, filter, []string{"1.1"}) // no attributes
	if ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) {
		return Account{}, nil, fmt.Errorf("%s is in more than %d groups; narrow group_filter or group_base_dn", entry.name, ldapGroups)
	}
	if err != nil {
		return Account{}, nil, fmt.Errorf("searching for the groups of an account: %w", err)
	}
	groups := make(map[string]bool, len(result.Entries))
	for _, group := range result.Entries {
		groups[ldapKey(group.DN)] = true
	}
	ids = l.roles.give(&account, func(g ldapGroup) bool { return groups[g.key] })
	return account, ids, nil
}

// bind checks a password, and goes on as the account if there is more to do.
func (l *LDAPDirectory) bind(ctx context.Context, dn, password string, more func(*ldapConn) error) error {
	return l.pool.use(ctx, false, func(c *ldapConn) error {
		begin := time.Now()
		err := c.bind(dn, password)
		switch {
		case ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultInappropriateAuthentication,
			ldap.LDAPResultNoSuchObject, ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultConstraintViolation):
			err = ErrWrongPassword
		case ldap.IsErrorWithCode(err, ldap.LDAPResultUnwillingToPerform):
			err = ErrBlocked // as servers say of accounts that are locked
		case err != nil:
			return fmt.Errorf("binding as an account: %w", err)
		}
		l.memory.bindTook(time.Since(begin))
		if err == nil && more != nil {
			err = more(c)
		}
		return err
	})
}

// ldapKey is the same for all ways to write a DN. What is none is its own key.
func ldapKey(dn string) string {
	parsed, err := ldap.ParseDN(dn)
	if err != nil {
		return dn
	}
	return strings.ToLower(parsed.String())
}
