package ldap

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

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// maxGroups is the limit on the groups of an account. Active Directory returns no more in
// one answer.
const maxGroups = 1000

// errSeveralEntries means that a name is ambiguous.
var errSeveralEntries = errors.New("user_filter finds more than one entry")

// entry is the entry of an account.
type entry struct {
	dn   string
	name string
	id   string // of the entry, whatever its name is

	// marker changes with the password. It is empty if no attribute tells.
	marker string
}

// same returns a text that is the same as long as the name belongs to this entry.
func (e entry) same() string { return digestOf("ldap account\x00" + e.id) }

// version returns a text that changes with the entry and with its password.
func (e entry) version() string {
	if e.marker == "" {
		return e.same()
	}
	return digestOf("ldap password\x00" + e.id + "\x00" + e.marker)
}

func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// find searches for the entry of an account.
func (l *Directory) find(ctx context.Context, name string) (entry entry, err error) {
	err = l.dialer.use(ctx, true, func(c *conn) error {
		entry, err = l.findWith(c, name)
		return err
	})
	return entry, err
}

func (l *Directory) userDN(name string) string {
	return strings.ReplaceAll(l.UserDN, "%s", ldap.EscapeDN(name))
}

// idAttrs are the attributes that identify an entry, whatever its name is.
var idAttrs = []string{"entryUUID", "objectGUID", "nsUniqueId"}

func (l *Directory) findWith(c *conn, name string) (entry, error) {
	base, scope := l.BaseDN, ldap.ScopeWholeSubtree
	if l.UserDN != "" {
		base, scope = l.userDN(name), ldap.ScopeBaseObject
	}
	filter := "(objectClass=*)"
	if l.UserFilter != "" {
		filter = strings.ReplaceAll(l.UserFilter, "%s", ldap.EscapeFilter(name))
	}
	// Servers return operational attributes only if the search names them.
	result, err := c.search(base, scope, 2, filter, slices.Concat([]string{l.AccountAttr}, idAttrs, l.markers()))
	switch {
	case scope == ldap.ScopeBaseObject && ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		return entry{}, directory.ErrUnknownAccount
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) || err == nil && len(result.Entries) > 1:
		return entry{}, errSeveralEntries
	case err != nil:
		return entry{}, fmt.Errorf("searching for an account: %w", err)
	case len(result.Entries) == 0:
		return entry{}, directory.ErrUnknownAccount
	}
	return l.readEntry(result.Entries[0], name)
}

func (l *Directory) readEntry(found *ldap.Entry, name string) (entry, error) {
	entry := entry{dn: found.DN, id: "dn " + dnKey(found.DN)}
	names := found.GetEqualFoldAttributeValues(l.AccountAttr)
	switch {
	case len(names) != 1:
		return entry, fmt.Errorf("the entry %s has %d values of %s, want one", found.DN, len(names), l.AccountAttr)
	case !validName(names[0]):
		return entry, fmt.Errorf("the entry %s has an invalid name %q", found.DN, names[0])
	case l.UserDN != "" && !strings.EqualFold(names[0], name):
		return entry, fmt.Errorf("user_dn for %q resolves to the entry of %q", name, names[0])
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

// withGroups returns the account of an entry with its roles, and the ids of its mapped
// groups.
func (l *Directory) withGroups(c *conn, entry entry) (account directory.Account, ids []string, err error) {
	// Access tokens store the facts, so they end when another entry gets the name.
	account = directory.Account{Name: entry.name, Version: entry.version(), Facts: entry.same()}
	if entry.marker == "" {
		account.RefreshFor = unmarkedRefresh
	}
	if len(l.roles) == 0 {
		return account, nil, nil
	}
	filter := strings.NewReplacer("%s", ldap.EscapeFilter(entry.dn), "%u", ldap.EscapeFilter(entry.name)).Replace(l.GroupFilter)
	result, err := c.search(l.GroupBaseDN, ldap.ScopeWholeSubtree, maxGroups, filter, []string{"1.1"}) // no attributes
	if ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) {
		return directory.Account{}, nil, fmt.Errorf("%s is in more than %d groups; write a narrower group_filter or group_base_dn", entry.name, maxGroups)
	}
	if err != nil {
		return directory.Account{}, nil, fmt.Errorf("searching for the groups of an account: %w", err)
	}
	groups := make(map[string]bool, len(result.Entries))
	for _, group := range result.Entries {
		groups[dnKey(group.DN)] = true
	}
	ids = l.roles.give(&account, func(g mappedGroup) bool { return groups[g.key] })
	return account, ids, nil
}

// bind checks a password, and then calls more, unless it is nil, on the same connection.
func (l *Directory) bind(ctx context.Context, dn, password string, more func(*conn) error) error {
	return l.dialer.use(ctx, false, func(c *conn) error {
		begin := time.Now()
		err := c.bind(dn, password)
		switch {
		case ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultInappropriateAuthentication,
			ldap.LDAPResultNoSuchObject, ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultConstraintViolation):
			err = directory.ErrWrongPassword
		case ldap.IsErrorWithCode(err, ldap.LDAPResultUnwillingToPerform):
			err = directory.ErrBlocked // the answer for a locked account
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

// dnKey returns the same text for all spellings of a DN. It returns any other text as it is.
func dnKey(dn string) string {
	parsed, err := ldap.ParseDN(dn)
	if err != nil {
		return dn
	}
	return strings.ToLower(parsed.String())
}
