package ldap

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// UnmarshalCaddyfile reads the directory. map may be repeated; all else but how
// to bind has a default:
//
//	directory ldap <url>... {
//		name             <name>
//		bind_dn          <dn>
//		bind_password    <placeholder>
//		base_dn          <dn>
//		user_filter      <filter with %s>
//		user_dn          <dn with %s>
//		account_attr     <attribute>
//		password_changed <attribute>
//		group_base_dn    <dn>
//		group_filter     <filter with %s or %u>
//		map              <group dn> -> <group> [member|maintainer|owner]
//		admins           <group dn>...
//		starttls         on|off
//		insecure         on|off
//		tls_trust_pool   <module> ...
//		tls_server_name  <name>
//		tls_client_auth  <certificate file> <key file>
//		cache_for        <duration>
//		grace            <duration>
//		timeout          <duration>
//		pool             <connections>
//	}
//
// A DN with blanks is put in quotation marks. Search then bind, as most
// directories want it:
//
//	directory ldap ldaps://ldap.example.com {
//		bind_dn       cn=caddy,dc=example,dc=com
//		bind_password {file./run/secrets/ldap}
//		base_dn       ou=people,dc=example,dc=com
//		group_base_dn ou=groups,dc=example,dc=com
//		map           cn=platform,ou=groups,dc=example,dc=com -> acme
//	}
//
// With Active Directory, where disabled accounts stay out and nested groups
// count:
//
//	user_filter  (&(sAMAccountName=%s)(!(userAccountControl:1.2.840.113556.1.4.803:=2)))
//	account_attr sAMAccountName
//	group_filter (member:1.2.840.113556.1.4.1941:=%s)
//
// Bind as the account, without a service account. What is known of an account
// is then what its login told, for a day at most; every name is taken for one
// of the directory's, so it comes after all others:
//
//	directory ldap ldap://ldap.example.com {
//		starttls      on
//		user_dn       uid=%s,ou=people,dc=example,dc=com
//		group_base_dn ou=groups,dc=example,dc=com
//		map           cn=platform,ou=groups,dc=example,dc=com -> acme
//	}
func (l *Directory) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if l.Servers = d.RemainingArgs(); len(l.Servers) == 0 {
		return d.WrapErr(l.checkServers())
	}
	lines := map[string]func(*caddyfile.Dispenser) error{
		"name":            func(d *caddyfile.Dispenser) error { return directory.ReadName(d, &l.Name) },
		"map":             l.unmarshalMap,
		"admins":          func(d *caddyfile.Dispenser) error { return parse.Args(d, &l.Admins) },
		"starttls":        func(d *caddyfile.Dispenser) (err error) { l.StartTLS, err = parse.OnOff(d); return err },
		"insecure":        func(d *caddyfile.Dispenser) (err error) { l.Insecure, err = parse.OnOff(d); return err },
		"tls_trust_pool":  l.unmarshalTrustPool,
		"tls_server_name": func(d *caddyfile.Dispenser) error { return parse.Arg(d, &l.tls().ServerName) },
		"tls_client_auth": l.unmarshalClientAuth,
		"cache_for":       func(d *caddyfile.Dispenser) error { return parse.Duration(d, &l.CacheFor) },
		"grace":           func(d *caddyfile.Dispenser) error { return parse.Duration(d, &l.Grace) },
		"timeout":         func(d *caddyfile.Dispenser) error { return parse.Duration(d, &l.Timeout) },
		"pool":            l.unmarshalPool,
	}
	for word, to := range map[string]*string{
		"bind_dn": &l.BindDN, "bind_password": &l.BindPassword, "base_dn": &l.BaseDN, "user_filter": &l.UserFilter, "user_dn": &l.UserDN,
		"account_attr": &l.AccountAttr, "password_changed": &l.PasswordChanged, "group_base_dn": &l.GroupBaseDN, "group_filter": &l.GroupFilter,
	} {
		lines[word] = func(d *caddyfile.Dispenser) error { return parse.Arg(d, to) }
	}
	if err := parse.Lines(d, "directory ldap", lines); err != nil {
		return err
	}
	return parse.At(d, l.check())
}

func (l *Directory) unmarshalMap(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 3 || len(args) > 4 || args[1] != "->" {
		return d.Err("write `map GROUP-DN -> GROUP [member|maintainer|owner]`, a DN with blanks in quotation marks")
	}
	g := &Group{DN: args[0], Group: args[2]}
	if len(args) == 4 {
		g.Role = args[3]
	}
	l.Map = append(l.Map, g)
	return parse.At(d, g.check())
}

func (l *Directory) tls() *reverseproxy.TLSConfig {
	if l.TLS == nil {
		l.TLS = new(reverseproxy.TLSConfig)
	}
	return l.TLS
}

func (l *Directory) unmarshalTrustPool(d *caddyfile.Dispenser) (err error) {
	if l.tls().CARaw != nil {
		return d.Err("tls_trust_pool is there twice")
	}
	l.TLS.CARaw, err = parse.Module(d, "tls.ca_pool.source.", "provider")
	return err
}

func (l *Directory) unmarshalClientAuth(d *caddyfile.Dispenser) error {
	if !d.AllArgs(&l.tls().ClientCertificateFile, &l.TLS.ClientCertificateKeyFile) {
		return d.Err("write `tls_client_auth CERTIFICATE-FILE KEY-FILE`")
	}
	return nil
}

func (l *Directory) unmarshalPool(d *caddyfile.Dispenser) (err error) {
	value := ""
	if err := parse.Arg(d, &value); err != nil {
		return err
	}
	if l.Pool, err = strconv.Atoi(value); err != nil || l.Pool < 1 {
		return d.Errf("pool: '%s' is not a number of connections", value)
	}
	return nil
}
