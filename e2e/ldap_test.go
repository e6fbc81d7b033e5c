//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// How long the proxies of these tests use an answer of slapd, and how long while
// slapd is unavailable.
const (
	ldapCacheFor = 2 * time.Second
	ldapGrace    = 8 * time.Second
)

const ldapGroups = `
		group_base_dn ou=groups,dc=example,dc=com
		map cn=platform,ou=groups,dc=example,dc=com -> acme
		map CN=Leads,OU=groups,DC=example,DC=com -> acme/platform owner`

// ldapBody returns a configuration with all accounts in slapd.
func ldapBody(url, lines string) string {
	return fmt.Sprintf("directory ldap %s {\n%s%s\n\t\tcache_for %s\n\t\tgrace %s\n}\n", url, lines, ldapGroups, ldapCacheFor, ldapGrace) +
		upstreamBlock("docker.io", plainEndpoint) + "group acme\ngroup acme/platform\n"
}

// ldapSearch returns the lines for search then bind; the password is in a file.
func ldapSearch(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ldap-password")
	must(t, os.WriteFile(file, []byte(ldapPassword+"\n"), 0o600))
	return fmt.Sprintf(`
		bind_dn %s
		bind_password {file.%s}
		base_dn ou=people,dc=example,dc=com
		user_filter (&(uid=%%s)(!(employeeType=disabled)))`, ldapReader, file)
}

// TestLDAP logs in with each way to bind and to encrypt.
func TestLDAP(t *testing.T) {
	img := lab.push.single(t, "library/ldap", "1", 1<<10)
	startSlapd(t)
	search := ldapSearch(t)
	alone := "\n\t\tuser_dn uid=%s,ou=people,dc=example,dc=com"
	trust := "\n\t\ttls_trust_pool file " + lab.authorityFile()
	for name, body := range map[string]string{
		"search, LDAPS":    ldapBody(ldapsURL, search+trust),
		"search, StartTLS": ldapBody(ldapURL, search+"\n\t\tstarttls on"), // by the system's trust
		"bind, LDAPS":      ldapBody(ldapsURL, alone),
		"bind, StartTLS":   ldapBody(ldapURL, alone+trust+"\n\t\tstarttls on"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each failed login takes a second
			p := startProxy(t, body)
			for _, c := range []struct {
				account, group string
				status         int
			}{{"alice", "acme", 200}, {"alice", "acme/platform", 200}, {"carol", "acme", 403}, {"carol", "acme/platform", 200}} {
				got := p.get(t, p.login(t, c.account), manifestPath(c.group, shortName(img), "1"))
				if got.status != c.status {
					t.Errorf("%s in %s: %d %s, want %d", c.account, c.group, got.status, got.body, c.status)
				}
			}
			for _, wrong := range [][2]string{
				{"alice", "wrong"}, {"alice", ""}, {"nobody", password}, {"*", password}, {"alice)(uid=*", password}, {"alice,ou=people", password},
			} {
				p.askToken(t, wrong[0], wrong[1]).want(t, http.StatusUnauthorized, "UNAUTHORIZED")
			}
			c := newClient(t)
			c.run(t, "docker", "login", "-u", "Alice", "-p", password, p.host)
			c.run(t, "docker", "pull", p.reference("acme", img))
			c.run(t, "crane", "auth", "login", "-u", "bob", "-p", password, p.host)
			c.run(t, "crane", "manifest", p.reference("acme", img))
			if out := p.output(); strings.Contains(out, password) || strings.Contains(out, ldapPassword) {
				t.Error("the log has a password")
			}
		})
	}
}

// TestLDAPWithoutTLS verifies that slapd refuses passwords sent in the clear, so the
// logins of TestLDAP were encrypted. This configuration sets `insecure on`.
func TestLDAPWithoutTLS(t *testing.T) {
	startSlapd(t)
	p := startProxy(t, ldapBody(ldapURL, ldapSearch(t)+"\n\t\tinsecure on"))
	p.askToken(t, "alice", password).want(t, http.StatusServiceUnavailable, "UNAVAILABLE")
}

// TestLDAPChanges verifies that an account that is disabled, removed, or removed
// from a group cannot pull after cache_for.
func TestLDAPChanges(t *testing.T) {
	img := lab.push.single(t, "library/ldap-changes", "1", 1<<10)
	server := startSlapd(t)
	body := ldapBody(ldapsURL, ldapSearch(t))
	p := startProxy(t, body)
	path := manifestPath("acme", shortName(img), "1")
	refused := func(what, token string, status int, ldif string) {
		t.Helper()
		p.get(t, token, path).want(t, http.StatusOK, "")
		server.modify(t, ldif)
		begin := time.Now()
		for p.get(t, token, path).status != status {
			if time.Since(begin) > time.Minute {
				t.Fatalf("%s: not refused", what)
			}
			time.Sleep(20 * time.Millisecond)
		}
		took := time.Since(begin)
		t.Logf("%s: refused after %v", what, took)
		if took > ldapCacheFor+3*time.Second { // less than ldapGrace, on a busy machine too
			t.Errorf("%s: refused after %v", what, took)
		}
	}
	alice, bob := p.login(t, "alice"), p.login(t, "bob")
	refused("left the group", alice, http.StatusForbidden,
		"dn: cn=platform,ou=groups,dc=example,dc=com\nchangetype: modify\ndelete: member\nmember: uid=alice,ou=people,dc=example,dc=com\n")
	refused("disabled", bob, http.StatusUnauthorized,
		"dn: uid=bob,ou=people,dc=example,dc=com\nchangetype: modify\nadd: employeeType\nemployeeType: disabled\n")
	p.askToken(t, "bob", password).want(t, http.StatusUnauthorized, "UNAUTHORIZED")
	server.modify(t, "dn: uid=bob,ou=people,dc=example,dc=com\nchangetype: modify\ndelete: employeeType\n")
	time.Sleep(ldapCacheFor)              // until he is known again
	p.mustReload(t, body+"group other\n") // which forgets that his login was refused
	refused("removed", p.login(t, "bob"), http.StatusUnauthorized, "dn: uid=bob,ou=people,dc=example,dc=com\nchangetype: delete\n")
}

// TestLDAPUnavailable stops slapd: known accounts can pull until the grace period
// ends, and other accounts cannot log in. When slapd is back, all can.
func TestLDAPUnavailable(t *testing.T) {
	img := lab.push.single(t, "library/ldap-stopped", "1", 1<<10)
	server := startSlapd(t)
	body := ldapBody(ldapURL, ldapSearch(t)+"\n\t\tstarttls on")
	p := startProxy(t, body)
	path := manifestPath("acme", shortName(img), "1")
	token := p.login(t, "alice")
	p.get(t, token, path).want(t, http.StatusOK, "")
	server.stop()
	stopped := time.Now()
	time.Sleep(ldapCacheFor + time.Second) // what is known has to be asked for again
	p.get(t, token, path).want(t, http.StatusOK, "")
	p.login(t, "alice")
	p.mustReload(t, body+"group other\n")
	p.get(t, token, path).want(t, http.StatusOK, "")
	p.askToken(t, "bob", password).want(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	for p.get(t, token, path).status == http.StatusOK {
		if time.Since(stopped) > ldapGrace+5*time.Second {
			t.Fatal("the grace does not end")
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("known answers stood for %v", time.Since(stopped))
	p.get(t, token, path).want(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	server.start(t)
	must(t, p.ready(func() error {
		if got := p.get(t, token, path); got.status != http.StatusOK {
			return fmt.Errorf("answered %d", got.status)
		}
		return nil
	}))
	p.login(t, "bob")
}
