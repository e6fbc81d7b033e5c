package ldap

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// check checks the whole configuration, before and after the defaults are set.
func (l *Directory) check() error {
	err := cmp.Or(l.checkServers(), l.checkBind(), l.checkSearch())
	if err != nil {
		return err
	}
	for _, g := range l.Map {
		if err := g.check(); err != nil {
			return err
		}
	}
	for _, dn := range l.Admins {
		if err := checkDN("admins", dn); err != nil || dn == "" {
			return cmp.Or(err, errors.New("admins has an empty DN"))
		}
	}
	switch {
	case l.CacheFor < 0 || l.Grace < 0 || l.Timeout < 0:
		return errors.New("cache_for, grace and timeout must not be negative")
	case l.Pool < 0:
		return errors.New("pool must be at least 1")
	}
	return nil
}

func (l *Directory) checkServers() error {
	if len(l.Servers) == 0 {
		return errors.New("missing server; write `directory ldap ldaps://ldap.example.com`")
	}
	for _, server := range l.Servers {
		u, err := parseServer(server)
		switch {
		case err != nil:
			return err
		case l.StartTLS && u.Scheme == "ldaps":
			return fmt.Errorf("%s uses TLS from the start; leave out starttls, or write ldap://", server)
		case u.Scheme == "ldap" && !l.StartTLS && !l.Insecure:
			return fmt.Errorf("passwords would be sent to %s unencrypted; write ldaps:// or `starttls on`, or else `insecure on`", server)
		}
	}
	if l.TLS != nil && l.TLS.InsecureSkipVerify {
		return errors.New("the certificate of an LDAP server must be verified; write `tls_trust_pool file /path/to/ca.pem`")
	}
	return nil
}

// parseServer parses the URL of a server. Its error does not show the URL, which may hold
// a password by mistake.
func parseServer(server string) (*url.URL, error) {
	u, ok := parse.URL(server, "ldap", "ldaps")
	if !ok || strings.Trim(u.Path, "/") != "" {
		return nil, errors.New("invalid server; use a URL such as ldaps://ldap.example.com or ldap://ldap.example.com:389")
	}
	return u, nil
}

func (l *Directory) checkBind() error {
	switch {
	case l.BindDN == "" && l.BindPassword != "":
		return errors.New("bind_password needs bind_dn")
	case l.BindDN == "" && l.UserDN == "":
		return errors.New("missing bind_dn; write bind_dn and bind_password to search for accounts, or user_dn to bind as them without a search")
	case l.BindDN == "":
		return nil
	case !parse.IsPlaceholder(l.BindPassword):
		return errors.New("bind_password must be a placeholder, since the admin API shows the configuration; write {file./run/secrets/ldap} or {env.LDAP_PASSWORD}")
	}
	return nil
}

func (l *Directory) checkSearch() error {
	if l.UserDN != "" {
		if !strings.Contains(l.UserDN, "%s") {
			return errors.New("user_dn must contain %s for the name of the account")
		}
		if err := checkDN("user_dn", strings.ReplaceAll(l.UserDN, "%s", "x")); err != nil {
			return err
		}
	} else if l.BaseDN == "" {
		return errors.New("missing base_dn; write the subtree with the accounts")
	}
	if len(l.Map)+len(l.Admins) > 0 && l.BaseDN == "" && l.GroupBaseDN == "" {
		return errors.New("missing group_base_dn; write the subtree with the groups")
	}
	if l.UserFilter != "" && !strings.Contains(l.UserFilter, "%s") && l.UserDN == "" {
		return errors.New("user_filter must contain %s for the name of the account, as in (uid=%s)")
	}
	if l.GroupFilter != "" && !strings.Contains(l.GroupFilter, "%s") && !strings.Contains(l.GroupFilter, "%u") {
		return errors.New("group_filter must contain %s for the DN of the account, or %u for its name, as in (member=%s)")
	}
	return cmp.Or(checkDN("base_dn", l.BaseDN), checkDN("group_base_dn", l.GroupBaseDN),
		checkFilter("user_filter", l.UserFilter), checkFilter("group_filter", l.GroupFilter),
		l.checkMarker())
}

// attributeName matches the name of an attribute: a short name or a numeric OID (RFC 4512,
// section 1.4).
var attributeName = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9-]*|[0-9]+(\.[0-9]+)+)$`)

func (l *Directory) checkMarker() error {
	switch {
	case l.PasswordChanged == "":
		return nil
	case !attributeName.MatchString(l.PasswordChanged):
		return fmt.Errorf("invalid attribute '%.100s' of password_changed; write a name, as in `password_changed shadowLastChange`", l.PasswordChanged)
	case l.BindDN == "":
		return errors.New("password_changed needs bind_dn, since the attribute is looked up at each request")
	}
	return nil
}

func checkDN(what, dn string) error {
	if dn == "" {
		return nil
	}
	if parsed, err := ldap.ParseDN(dn); err != nil || len(parsed.RDNs) == 0 {
		return fmt.Errorf("%s: invalid DN '%s'; write one as in dc=example,dc=com", what, dn)
	}
	return nil
}

func checkFilter(what, filter string) error {
	if filter == "" {
		return nil
	}
	if _, err := ldap.CompileFilter(strings.NewReplacer("%s", "x", "%u", "x").Replace(filter)); err != nil {
		return fmt.Errorf("%s: invalid filter '%s'; write one as in (uid=%%s): %w", what, filter, err)
	}
	return nil
}

func (g *Group) check() error {
	if g == nil {
		return errors.New("a map is null")
	}
	if g.DN == "" {
		return errors.New("a map has no DN")
	}
	if err := checkDN("map", g.DN); err != nil {
		return err
	}
	if err := directory.CheckMapping(g.Group, g.Role); err != nil {
		return fmt.Errorf("map %s: %w", g.DN, err)
	}
	return nil
}
