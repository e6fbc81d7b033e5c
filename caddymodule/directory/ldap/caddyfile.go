package ldap

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// maxPool is the number of ports from which one address can connect to a server.
const maxPool = 65535

// UnmarshalCaddyfile sets up the directory from Caddyfile tokens. bind_dn with
// bind_password and base_dn, or user_dn, are required. map and admins may be repeated:
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
// A DN with spaces needs quotation marks. docs/accounts.md has examples: with a service
// account, with Active Directory, and without a service account.
func (l *Directory) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if l.Servers = d.RemainingArgs(); len(l.Servers) == 0 {
		return d.WrapErr(l.checkServers())
	}
	lines := map[string]func(*caddyfile.Dispenser) error{
		"name":     func(d *caddyfile.Dispenser) error { return directory.ReadName(d, &l.Name) },
		"map":      l.unmarshalMap,
		"admins":   func(d *caddyfile.Dispenser) error { return parse.Args(d, &l.Admins) },
		"starttls": func(d *caddyfile.Dispenser) (err error) { l.StartTLS, err = parse.OnOff(d); return err },
		"insecure": func(d *caddyfile.Dispenser) (err error) { l.Insecure, err = parse.OnOff(d); return err },
		"tls_trust_pool": func(d *caddyfile.Dispenser) error {
			return parse.ModuleOnce(d, "tls.ca_pool.source.", "provider", &l.tls().CARaw)
		},
		"tls_server_name": func(d *caddyfile.Dispenser) error { return parse.Arg(d, &l.tls().ServerName) },
		"tls_client_auth": l.unmarshalClientAuth,
		"cache_for":       func(d *caddyfile.Dispenser) error { return parse.Duration(d, &l.CacheFor) },
		"grace":           func(d *caddyfile.Dispenser) error { return parse.Duration(d, &l.Grace) },
		"timeout":         func(d *caddyfile.Dispenser) error { return parse.Duration(d, &l.Timeout) },
		"pool":            func(d *caddyfile.Dispenser) error { return parse.Int(d, maxPool, &l.Pool) },
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
	args, g := d.RemainingArgs(), new(Group)
	if len(args) == 0 || !directory.ReadMapping(args[1:], &g.Group, &g.Role) {
		return d.Err("write `map GROUP-DN -> GROUP [member|maintainer|owner]`, with quotation marks around a DN with spaces")
	}
	g.DN = args[0]
	l.Map = append(l.Map, g)
	return parse.At(d, g.check())
}

func (l *Directory) tls() *reverseproxy.TLSConfig {
	if l.TLS == nil {
		l.TLS = new(reverseproxy.TLSConfig)
	}
	return l.TLS
}

func (l *Directory) unmarshalClientAuth(d *caddyfile.Dispenser) error {
	if !d.AllArgs(&l.tls().ClientCertificateFile, &l.TLS.ClientCertificateKeyFile) {
		return d.Err("write `tls_client_auth CERTIFICATE-FILE KEY-FILE`")
	}
	return nil
}

var _ caddyfile.Unmarshaler = (*Directory)(nil)
