package ldap

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// check finds what is wrong with the directory by itself, defaults or not.
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
			return cmp.Or(err, errors.New("a DN of admins is empty"))
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
		return errors.New("write the server, as in `directory ldap ldaps://ldap.example.com`")
	}
	for _, server := range l.Servers {
		u, err := parseServer(server)
		switch {
		case err != nil:
			return err
		case l.StartTLS && u.Scheme == "ldaps":
			return fmt.Errorf("%s has TLS from the start; leave starttls away, or write ldap://", server)
		case u.Scheme == "ldap" && !l.StartTLS && !l.Insecure:
			return fmt.Errorf("to %s all passwords would go unencrypted; write ldaps:// or `starttls on`, or else `insecure on`", server)
		}
	}
	if l.TLS != nil && l.TLS.InsecureSkipVerify {
		return errors.New("the certificate of an LDAP server is always verified; write `tls_trust_pool file /path/to/ca.pem`")
	}
	return nil
}

// parseServer reads a server's URL. There may be a password in it by
// mistake, so errors do not show it.
func parseServer(server string) (*url.URL, error) {
	u, err := url.Parse(server)
	if err != nil || u.Hostname() == "" || (u.Scheme != "ldap" && u.Scheme != "ldaps") || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("a server is not a URL as in ldaps://ldap.example.com or ldap://ldap.example.com:389")
	}
	return u, nil
}

func (l *Directory) checkBind() error {
	switch {
	case l.BindDN == "" && l.BindPassword != "":
		return errors.New("bind_password is without a bind_dn")
	case l.BindDN == "" && l.UserDN == "":
		return errors.New("write bind_dn and bind_password for searching for accounts, or user_dn for binding as them without")
	case l.BindDN == "":
		return nil
	case !strings.HasPrefix(l.BindPassword, "{") || !strings.HasSuffix(l.BindPassword, "}"):
		return errors.New("bind_password must be a placeholder, as in {file./run/secrets/ldap} or {env.LDAP_PASSWORD}: the admin API shows what stands in the configuration")
	}
	return nil
}

func (l *Directory) checkSearch() error {
	if l.UserDN != "" {
		if !strings.Contains(l.UserDN, "%s") {
			return errors.New("user_dn must have %s where the account's name goes")
		}
		if err := checkDN("user_dn", strings.ReplaceAll(l.UserDN, "%s", "x")); err != nil {
			return err
		}
	} else if l.BaseDN == "" {
		return errors.New("write base_dn, the subtree that accounts are searched in")
	}
	if len(l.Map)+len(l.Admins) > 0 && l.BaseDN == "" && l.GroupBaseDN == "" {
		return errors.New("write group_base_dn, the subtree that groups are searched in")
	}
	if l.UserFilter != "" && !strings.Contains(l.UserFilter, "%s") && l.UserDN == "" {
		return errors.New("user_filter must have %s where the account's name goes, as in (uid=%s)")
	}
	if l.GroupFilter != "" && !strings.Contains(l.GroupFilter, "%s") && !strings.Contains(l.GroupFilter, "%u") {
		return errors.New("group_filter must have %s where the account's DN goes, or %u for its name, as in (member=%s)")
	}
	return cmp.Or(checkDN("base_dn", l.BaseDN), checkDN("group_base_dn", l.GroupBaseDN),
		checkFilter("user_filter", l.UserFilter), checkFilter("group_filter", l.GroupFilter),
		l.checkMarker())
}

func checkDN(what, dn string) error {
	if dn == "" {
		return nil
	}
	if parsed, err := ldap.ParseDN(dn); err != nil || len(parsed.RDNs) == 0 {
		return fmt.Errorf("%s '%s' is not a DN as in dc=example,dc=com", what, dn)
	}
	return nil
}

func checkFilter(what, filter string) error {
	if filter == "" {
		return nil
	}
	if _, err := ldap.CompileFilter(strings.NewReplacer("%s", "x", "%u", "x").Replace(filter)); err != nil {
		return fmt.Errorf("%s '%s' is not a filter as in (uid=%%s): %w", what, filter, err)
	}
	return nil
}

func (g *Group) check() error {
	if g == nil {
		return errors.New("a mapping of an LDAP directory is null")
	}
	if g.DN == "" {
		return errors.New("a mapping has no DN")
	}
	if err := cmp.Or(checkDN("map", g.DN), directory.CheckGroupPath(g.Group)); err != nil {
		return err
	}
	if _, ok := directory.ParseRole(cmp.Or(g.Role, "member")); !ok {
		return fmt.Errorf("map %s: role '%s': write member, maintainer or owner", g.DN, g.Role)
	}
	return nil
}
