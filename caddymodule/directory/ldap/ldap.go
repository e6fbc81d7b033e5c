// Package ldap is the directory of an LDAP server: the module
// http.dependency_proxy.directory.ldap.
//
// A login is a bind as the account (RFC 4513). With a service account (bind_dn), the
// entry and the groups of an account are searched for, at a login and again at each
// request (search.go); the version of an account changes with its password, if the
// server has an attribute for that (marker.go). Without a service account the directory
// can only search as the account itself, so its groups are those of the login, for a day. Answers are remembered for
// CacheFor, and up to Grace while no server can be asked (memory.go); they survive a
// reload. Each question has a connection of its own, of which there are at most Pool
// (dial.go).
package ldap

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/secret"
)

func init() { caddy.RegisterModule(new(Directory)) }

// Directory knows the accounts of an LDAP server: OpenLDAP, Active Directory, 389 and
// others. With BindDN it searches for an account and then binds as it to check the
// password; at each request, the account and its groups are those of a search at most
// CacheFor ago. With UserDN alone it binds as the account; its groups are then those of
// its last login, for a day at most, since nothing else can ask for them.
//
// LDAP compares names without regard to case. The account has the name in its entry,
// however it was written at the login. Referrals are not followed.
type Directory struct {
	// Name is the name by which the configuration lists accounts of this directory,
	// as in NAME:alice. The default is ldap.
	Name string `json:"name,omitempty"`

	// Servers are URLs such as ldaps://ldap.example.com, tried in order until one can
	// be reached.
	Servers []string `json:"servers"`

	// StartTLS starts TLS on ldap:// connections before anything else is sent.
	StartTLS bool `json:"starttls,omitempty"`

	// Insecure permits ldap:// without TLS, which sends passwords unencrypted.
	Insecure bool `json:"insecure,omitempty"`

	// TLS are settings such as the certificate authorities to trust. The certificate
	// of the server is always verified.
	TLS *reverseproxy.TLSConfig `json:"tls,omitempty"`

	// BindDN is the service account that searches, which may be any name that the
	// server accepts. It may be a placeholder.
	BindDN string `json:"bind_dn,omitempty"`

	// BindPassword is the password of the service account. It must be a placeholder,
	// as in {file./run/secrets/ldap}.
	BindPassword string `json:"bind_password,omitempty"`

	// BaseDN is the subtree with the accounts.
	BaseDN string `json:"base_dn,omitempty"`

	// UserFilter finds the one entry of an account; %s stands for the name. The
	// default is (ATTR=%s), where ATTR is AccountAttr. It must find the account by
	// AccountAttr too, and must not find accounts that may not log in.
	UserFilter string `json:"user_filter,omitempty"`

	// UserDN, as in uid=%s,ou=people,dc=example,dc=com, is the DN of an account, if no
	// search is needed to find it. If there is a UserFilter, the entry must match it.
	UserDN string `json:"user_dn,omitempty"`

	// AccountAttr is the attribute with the name of the account. An entry must have
	// one value of it. The default is uid.
	AccountAttr string `json:"account_attr,omitempty"`

	// PasswordChanged is the attribute that changes when the password of an account
	// changes, which ends refresh tokens. The default is pwdChangedTime or
	// pwdLastSet, whichever an entry has. Refresh tokens of an account without the
	// attribute end 24 hours after the login.
	PasswordChanged string `json:"password_changed,omitempty"`

	// GroupBaseDN is the subtree with the groups. The default is BaseDN.
	GroupBaseDN string `json:"group_base_dn,omitempty"`

	// GroupFilter finds the groups of an account, at most 1000; %s stands for its DN
	// and %u for its name. The default is (member=%s). The server has to resolve
	// nested groups, as Active Directory does with
	// (member:1.2.840.113556.1.4.1941:=%s).
	GroupFilter string `json:"group_filter,omitempty"`

	// Map gives roles to the members of groups.
	Map []*Group `json:"map,omitempty"`

	// Admins are the DNs of groups whose members may do everything on the site.
	Admins []string `json:"admins,omitempty"`

	// CacheFor is how long an answer is used. The default is 30s.
	CacheFor caddy.Duration `json:"cache_for,omitempty"`

	// Grace is the age up to which an answer is used while no server can be asked.
	// Without such an answer access is denied. The default is 10m.
	Grace caddy.Duration `json:"grace,omitempty"`

	// Timeout limits connecting, and each question. The default is 5s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// Pool is the largest number of connections at a time. The default is 4.
	Pool int `json:"pool,omitempty"`

	dialer *dialer
	memory *memory
	roles  roles
	source string   // identifies the servers in facts
	marked sync.Map // attributes that were logged to change with passwords
	lease  pool.Lease
}

// Group gives the members of a group of the LDAP server a role.
type Group struct {
	// DN is the DN of the group of the server.
	DN string `json:"dn"`

	// Group is the path of the group of this site.
	Group string `json:"group"`

	// Role is member (the default), maintainer or owner.
	Role string `json:"role,omitempty"`
}

const (
	defaultCacheFor = 30 * time.Second
	defaultGrace    = 10 * time.Minute
	defaultTimeout  = 5 * time.Second
	defaultPool     = 4
)

// CaddyModule returns the Caddy module information.
func (*Directory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.dependency_proxy.directory.ldap",
		New: func() caddy.Module { return new(Directory) },
	}
}

// Provision reads the password of the service account. It does not connect to a server,
// so Caddy starts while there is none.
func (l *Directory) Provision(ctx caddy.Context) error {
	l.setDefaults()
	if err := l.check(); err != nil {
		return err
	}
	// The key has the placeholder of the password, not the password.
	key, err := json.Marshal(l)
	if err != nil {
		return err
	}
	l.roles = newRoles(l.Map, l.Admins)
	l.source = groupID(fmt.Sprintf("%q %q %q %q", l.Servers, l.UserDN, l.UserFilter, l.AccountAttr))
	if l.dialer, err = l.newDialer(ctx); err != nil {
		return err
	}
	l.memory, err = memories.Acquire(&l.lease, string(key), l.newMemory)
	return err
}

// Cleanup releases the memory. Requests of the old configuration may still use it.
func (l *Directory) Cleanup() error {
	l.lease.Release()
	return nil
}

// Source implements [directory.Sourced]. It is the subtree of the accounts, whichever
// servers have it.
func (l *Directory) Source() string { return dnKey(cmp.Or(l.BaseDN, l.UserDN)) }

// Reach implements [directory.Remote].
func (l *Directory) Reach(ctx context.Context) error { return l.dialer.reach(ctx) }

// MappedGroups implements [directory.Mapping].
func (l *Directory) MappedGroups() (groups []string) {
	for _, g := range l.Map {
		groups = append(groups, g.Group)
	}
	return groups
}

func (l *Directory) setDefaults() {
	l.CacheFor = cmp.Or(l.CacheFor, caddy.Duration(defaultCacheFor))
	l.Grace = cmp.Or(l.Grace, caddy.Duration(defaultGrace))
	l.Timeout = cmp.Or(l.Timeout, caddy.Duration(defaultTimeout))
	l.Pool = cmp.Or(l.Pool, defaultPool)
	l.AccountAttr = cmp.Or(l.AccountAttr, "uid")
	if l.UserDN == "" {
		l.UserFilter = cmp.Or(l.UserFilter, "("+l.AccountAttr+"=%s)")
	}
	l.GroupBaseDN = cmp.Or(l.GroupBaseDN, l.BaseDN)
	l.GroupFilter = cmp.Or(l.GroupFilter, "(member=%s)")
}

func (l *Directory) newDialer(ctx caddy.Context) (*dialer, error) {
	d := &dialer{
		startTLS: l.StartTLS,
		timeout:  time.Duration(l.Timeout),
		slots:    make(chan struct{}, l.Pool),
		unknown:  make(chan struct{}, max(1, l.Pool/2)),
		logger:   ctx.Logger(),
	}
	for _, server := range l.Servers {
		u, err := parseServer(server)
		if err != nil {
			return nil, err
		}
		d.servers = append(d.servers, u)
	}
	settings := l.TLS
	if settings == nil {
		settings = new(reverseproxy.TLSConfig)
	}
	var err error
	if d.tls, err = settings.MakeTLSClientConfig(ctx); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	if l.BindDN == "" {
		return d, nil
	}
	d.bindDN, err = caddy.NewReplacer().ReplaceOrErr(l.BindDN, true, true)
	if err != nil || d.bindDN == "" {
		return nil, errors.Join(errors.New("bind_dn is empty"), err)
	}
	password, err := parse.Secret("bind_password", l.BindPassword)
	if err != nil {
		return nil, err
	}
	d.bindPassword = secret.String(password)
	return d, nil
}

// Interface guards
var (
	_ caddy.Provisioner  = (*Directory)(nil)
	_ caddy.CleanerUpper = (*Directory)(nil)
	_ directory.Sourced  = (*Directory)(nil)
	_ directory.Costly   = (*Directory)(nil)
	_ directory.Mapping  = (*Directory)(nil)
	_ directory.Remote   = (*Directory)(nil)
)
