package ldap

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/secret"
)

func init() { caddy.RegisterModule(new(Directory)) }

// Directory knows the accounts of an LDAP server: OpenLDAP, Active
// Directory, 389 and others. With BindDN it searches for an account and then
// binds as it to check the password; at each request the account and its
// groups are those of a search at most CacheFor ago. With UserDN alone it binds
// as the account, whose groups are then those of its last login, for a day at
// most, since nobody else can ask for them.
//
// LDAP compares without regard to case; the account has the name that the
// entry has, whatever way it was written at the login. Referrals are not
// followed.
type Directory struct {
	// Name names the directory where its accounts are listed, as in NAME:alice. The
	// default is ldap.
	Name string `json:"name,omitempty"`

	// Servers are URLs as in ldaps://ldap.example.com or ldap://…, asked in
	// order until one can be reached.
	Servers []string `json:"servers"`

	// StartTLS begins TLS on ldap:// before anything else is said.
	StartTLS bool `json:"starttls,omitempty"`

	// Insecure lets passwords go over ldap:// without TLS.
	Insecure bool `json:"insecure,omitempty"`

	// TLS are settings such as the certificate authorities to trust. The
	// server's certificate is always verified.
	TLS *reverseproxy.TLSConfig `json:"tls,omitempty"`

	// BindDN is what to search as. It may be a placeholder, and whatever the
	// server takes for a name.
	BindDN string `json:"bind_dn,omitempty"`

	// BindPassword must be a placeholder, as in {file./run/secrets/ldap}.
	BindPassword string `json:"bind_password,omitempty"`

	// BaseDN is the subtree that accounts are searched in.
	BaseDN string `json:"base_dn,omitempty"`

	// UserFilter finds the one entry of an account, %s being the name: by
	// default (ATTR=%s) where AccountAttr is ATTR. It must find the account by
	// AccountAttr too, and must not find who may not log in.
	UserFilter string `json:"user_filter,omitempty"`

	// UserDN, as in uid=%s,ou=people,dc=example,dc=com, is the entry of an
	// account where that needs no search. UserFilter, if there is one, must
	// match it.
	UserDN string `json:"user_dn,omitempty"`

	// AccountAttr is the attribute with the account's name: uid by default. An
	// entry must have just one value of it.
	AccountAttr string `json:"account_attr,omitempty"`

	// PasswordChanged is the attribute that changes when an account's password
	// does, if that is neither pwdChangedTime nor pwdLastSet, of which the one
	// that an entry has is used by default. Its change ends refresh tokens;
	// those of an account without it end 24 hours after the login.
	PasswordChanged string `json:"password_changed,omitempty"`

	// GroupBaseDN is the subtree that groups are searched in: BaseDN by
	// default.
	GroupBaseDN string `json:"group_base_dn,omitempty"`

	// GroupFilter finds the groups of an account, at most 1000, %s being its
	// DN and %u its name: (member=%s) by default. Nested groups are the
	// server's to resolve, with Active Directory by
	// (member:1.2.840.113556.1.4.1941:=%s).
	GroupFilter string `json:"group_filter,omitempty"`

	// Map gives roles to members of groups.
	Map []*Group `json:"map,omitempty"`

	// Admins are DNs of groups whose members may do everything on the site.
	Admins []string `json:"admins,omitempty"`

	// CacheFor is how long an answer is believed: 30s by default.
	CacheFor caddy.Duration `json:"cache_for,omitempty"`

	// Grace is how old an answer may get while no server can be asked: 10m by
	// default. After it nobody gets in.
	Grace caddy.Duration `json:"grace,omitempty"`

	// Timeout bounds connecting, and each question: 5s by default.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// Pool is how many connections there are at most: 4 by default.
	Pool int `json:"pool,omitempty"`

	dialer *dialer
	memory *memory
	roles  roles
	source string   // names the servers in facts
	marked sync.Map // attributes that were logged to tell of password changes
	lease  pool.Lease
}

// Group gives the members of a group in the directory a role.
type Group struct {
	// DN is that of the group.
	DN string `json:"dn"`

	// Group is the path of the group that it is about here.
	Group string `json:"group"`

	// Role is member (the default), maintainer or owner.
	Role string `json:"role,omitempty"`
}

const (
	defaultLDAPCacheFor = 30 * time.Second
	defaultLDAPGrace    = 10 * time.Minute
	defaultLDAPTimeout  = 5 * time.Second
	defaultLDAPPool     = 4
)

// CaddyModule returns the Caddy module information.
func (*Directory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.dependency_proxy.directory.ldap",
		New: func() caddy.Module { return new(Directory) },
	}
}

// Provision makes the directory ready. It connects to nothing, so that Caddy
// starts without the server too.
func (l *Directory) Provision(ctx caddy.Context) error {
	l.setDefaults()
	if err := l.check(); err != nil {
		return err
	}
	// Of a placeholder the key has the name only.
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

// Cleanup releases what is remembered. Requests that are still served may ask on.
func (l *Directory) Cleanup() error {
	l.lease.Release()
	return nil
}

// Source implements [Sourced]: the accounts are those of a subtree,
// whichever servers tell it.
func (l *Directory) Source() string { return dnKey(cmp.Or(l.BaseDN, l.UserDN)) }

func (l *Directory) setDefaults() {
	for _, d := range []struct {
		to *caddy.Duration
		by time.Duration
	}{{&l.CacheFor, defaultLDAPCacheFor}, {&l.Grace, defaultLDAPGrace}, {&l.Timeout, defaultLDAPTimeout}} {
		if *d.to == 0 {
			*d.to = caddy.Duration(d.by)
		}
	}
	if l.Pool == 0 {
		l.Pool = defaultLDAPPool
	}
	if l.AccountAttr == "" {
		l.AccountAttr = "uid"
	}
	if l.UserFilter == "" && l.UserDN == "" {
		l.UserFilter = "(" + l.AccountAttr + "=%s)"
	}
	if l.GroupBaseDN == "" {
		l.GroupBaseDN = l.BaseDN
	}
	if l.GroupFilter == "" {
		l.GroupFilter = "(member=%s)"
	}
}

func (l *Directory) newDialer(ctx caddy.Context) (*dialer, error) {
	d := &dialer{
		startTLS:  l.StartTLS,
		timeout:   time.Duration(l.Timeout),
		slots:     make(chan struct{}, l.Pool),
		strangers: make(chan struct{}, max(1, l.Pool/2)),
		logger:    ctx.Logger(),
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
	repl := caddy.NewReplacer()
	d.bindDN, err = repl.ReplaceOrErr(l.BindDN, true, true)
	if err != nil || d.bindDN == "" {
		return nil, errors.Join(errors.New("bind_dn is empty"), err)
	}
	password, err := repl.ReplaceOrErr(l.BindPassword, true, true)
	if err != nil || password == "" {
		return nil, fmt.Errorf("the bind_password placeholder %s is empty, or its file cannot be read", l.BindPassword)
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
)
