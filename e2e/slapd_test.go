//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Addresses of slapd, and its accounts.
const (
	ldapURL      = "ldap://localhost:3890"
	ldapsURL     = "ldaps://localhost:6360"
	ldapAdmin    = "cn=admin,dc=example,dc=com"
	ldapReader   = "cn=caddy,dc=example,dc=com"
	ldapPassword = "ldap-secret-of-this-run"
)

// slapdConfig refuses passwords that are sent without TLS.
const slapdConfig = `include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile %[1]s/pid
argsfile %[1]s/args
TLSCertificateFile %[2]s
TLSCertificateKeyFile %[3]s
security simple_bind=128
database mdb
suffix dc=example,dc=com
rootdn %[4]s
rootpw %[5]s
directory %[1]s/data
access to attrs=userPassword by anonymous auth by * none
access to * by users read by * none
`

const slapdEntries = `dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
o: example

dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit

dn: ou=groups,dc=example,dc=com
objectClass: organizationalUnit

dn: %[1]s
objectClass: organizationalRole
objectClass: simpleSecurityObject
userPassword: %[2]s

`

const slapdPerson = `dn: uid=%[1]s,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
cn: %[1]s
sn: %[1]s
userPassword: %[2]s

`

const slapdGroups = `dn: cn=platform,ou=groups,dc=example,dc=com
objectClass: groupOfNames
member: uid=alice,ou=people,dc=example,dc=com
member: uid=bob,ou=people,dc=example,dc=com

dn: cn=leads,ou=groups,dc=example,dc=com
objectClass: groupOfNames
member: uid=carol,ou=people,dc=example,dc=com
`

// slapd is an OpenLDAP server with the tests' accounts: alice and bob are in the
// group platform, carol is in leads.
type slapd struct {
	*process
	dir string
}

func startSlapd(t *testing.T) *slapd {
	t.Helper()
	s := &slapd{dir: t.TempDir()}
	cert, key, err := lab.authority.issueFiles(s.dir, "localhost")
	must(t, err)
	must(t, os.Mkdir(filepath.Join(s.dir, "data"), 0o700))
	config := fmt.Sprintf(slapdConfig, s.dir, cert, key, ldapAdmin, ldapPassword)
	must(t, os.WriteFile(s.config(), []byte(config), 0o600))
	entries := fmt.Sprintf(slapdEntries, ldapReader, ldapPassword)
	for _, account := range accounts {
		entries += fmt.Sprintf(slapdPerson, account, password)
	}
	ldif := filepath.Join(s.dir, "entries.ldif")
	must(t, os.WriteFile(ldif, []byte(entries+slapdGroups), 0o600))
	if out, err := runFor(time.Minute, plainEnv(s.dir), "slapadd", "-f", s.config(), "-l", ldif); err != nil {
		t.Fatalf("slapadd: %v\n%s", err, out)
	}
	s.start(t)
	t.Cleanup(func() { s.stop() })
	s.showOnFailure(t)
	return s
}

func (s *slapd) config() string { return filepath.Join(s.dir, "slapd.conf") }

func (s *slapd) start(t *testing.T) {
	t.Helper()
	var err error
	s.process, err = startProcess(s.dir, "slapd", plainEnv(s.dir), "slapd",
		"-f", s.config(), "-h", ldapURL+" "+ldapsURL, "-d", "stats") // with -d it stays in front
	must(t, err)
	must(t, s.ready(func() error {
		conn, err := net.Dial("tcp", strings.TrimPrefix(ldapsURL, "ldaps://"))
		if err != nil {
			return err
		}
		return conn.Close()
	}))
}

// modify changes entries as an administrator.
func (s *slapd) modify(t *testing.T, ldif string) {
	t.Helper()
	file := filepath.Join(s.dir, "change.ldif")
	must(t, os.WriteFile(file, []byte(ldif), 0o600))
	// OpenLDAP's tools replace localhost by the machine's name, which the certificate
	// does not contain.
	out, err := runFor(time.Minute, plainEnv(s.dir, "LDAPTLS_REQCERT=never"),
		"ldapmodify", "-x", "-ZZ", "-H", ldapURL, "-D", ldapAdmin, "-w", ldapPassword, "-f", file)
	if err != nil {
		t.Fatalf("ldapmodify: %v\n%s", err, out)
	}
}
