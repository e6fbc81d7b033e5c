package ldap

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
)

// login logs in with a right password.
func login(t *testing.T, d *Directory, name string) error {
	t.Helper()
	_, err := d.Authenticate(t.Context(), directory.Login{Name: name, Password: ldaptest.PasswordOf(name)})
	return err
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for begin := time.Now(); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// TestDirectoryGraceEnds: no answer is used for longer than the grace.
func TestDirectoryGraceEnds(t *testing.T) {
	l := ldaptest.New(t, true)
	d := provisionLDAP(t, l, "cache_for 1ns", "grace 300ms")
	if err := login(t, d, "alice"); err != nil {
		t.Fatal(err)
	}
	l.Stop()
	over := time.Now().Add(300 * time.Millisecond)
	for what, ask := range map[string]func() error{
		"login":  func() error { return login(t, d, "alice") },
		"lookup": func() error { _, err := d.Lookup(t.Context(), "alice", ""); return err },
	} {
		eventually(t, "the grace of the "+what+" ends", func() bool {
			late, err := time.Now().After(over), ask()
			if directory.IsRefusal(err) || late && err == nil {
				t.Fatalf("%s: got %v, after the grace: %v; want an answer during the grace period, then an error other than a refusal", what, err, late)
			}
			return err != nil
		})
	}
}

// TestDialerConnections: there are never more connections than the pool permits, and none
// is left when its question was answered or has failed.
func TestDialerConnections(t *testing.T) {
	l := ldaptest.New(t, true)
	l.Set(func() { l.Fault = func(uint64) { time.Sleep(2 * time.Millisecond) } })
	d := provisionLDAP(t, l, "cache_for 1ns", "grace 1ms", "pool 3")
	noneLeft := func() {
		t.Helper()
		eventually(t, "the connections are closed", func() bool {
			l.Mu.Lock()
			defer l.Mu.Unlock()
			return len(l.Conns) == 0
		})
	}
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			name := []string{"alice", "bob", "carol"}[i%3]
			if i%2 != 0 {
				if err := login(t, d, name); err != nil {
					t.Errorf("%s: got %v, want no error", name, err)
				}
				return
			}
			_, err := d.Authenticate(t.Context(), directory.Login{Name: name, Password: fmt.Sprint("wrong", i)})
			if !errors.Is(err, directory.ErrWrongPassword) {
				t.Errorf("%s: got %v, want %v", name, err, directory.ErrWrongPassword)
			}
		})
	}
	all.Wait()
	noneLeft()
	l.Set(func() {
		if l.Most > 3 {
			t.Errorf("got %d connections at once, want at most 3", l.Most)
		}
		var once sync.Once
		l.Fault = func(tag uint64) {
			if tag == ldap.ApplicationSearchRequest {
				once.Do(func() { closeAll(l) }) // in the middle of an answer
			}
		}
	})
	if err := login(t, d, "alice"); err == nil || directory.IsRefusal(err) {
		t.Errorf("got %v, want a failure", err)
	}
	eventually(t, "the server is asked again", func() bool { return login(t, d, "alice") == nil })
	noneLeft()
}

func closeAll(l *ldaptest.Server) {
	l.Set(func() {
		for conn := range l.Conns {
			_ = conn.Close()
		}
	})
}

// TestDirectoryRefusals: the result codes with which servers refuse a bind are refusals.
func TestDirectoryRefusals(t *testing.T) {
	l := ldaptest.New(t, true)
	d := provisionLDAP(t, l)
	for code, want := range map[uint16]error{
		ldap.LDAPResultInvalidCredentials:          directory.ErrWrongPassword,
		ldap.LDAPResultInappropriateAuthentication: directory.ErrWrongPassword,
		ldap.LDAPResultNoSuchObject:                directory.ErrWrongPassword,
		ldap.LDAPResultInsufficientAccessRights:    directory.ErrWrongPassword,
		ldap.LDAPResultConstraintViolation:         directory.ErrWrongPassword,
		ldap.LDAPResultUnwillingToPerform:          directory.ErrBlocked,
	} {
		l.Set(func() { l.Refuse["uid=alice,"+ldaptest.People] = code })
		if err := login(t, d, "alice"); !errors.Is(err, want) {
			t.Errorf("result code %d: got %v, want %v", code, err, want)
		}
	}
}

// TestDialerNextServer: if a server is away, the next one is asked.
func TestDialerNextServer(t *testing.T) {
	l, away := ldaptest.New(t, true), ldaptest.New(t, true)
	away.Stop()
	d := provisionBlock(t, strings.Replace(l.Directory("cache_for 1ns"), "directory ldap", "directory ldap "+away.URL(), 1))
	for range 3 {
		if err := login(t, d, "alice"); err != nil {
			t.Errorf("got %v, want no error", err)
		}
		closeAll(l)
	}
}

// TestDirectoryReach: the directory can be reached while all connections of the pool
// are in use, and cannot if no server answers or the service account is refused.
func TestDirectoryReach(t *testing.T) {
	l := ldaptest.New(t, true)
	d := provisionLDAP(t, l, "pool 1")
	d.dialer.slots <- struct{}{}
	if err := d.Reach(t.Context()); err != nil {
		t.Errorf("got %v, want no error", err)
	}
	l.Put(ldaptest.ServiceDN, "userPassword", "another")
	if err := d.Reach(t.Context()); err == nil || !strings.Contains(err.Error(), "binding as bind_dn") {
		t.Errorf("got %v, want the refusal of the service account", err)
	}
	l.Stop()
	if err := d.Reach(t.Context()); err == nil || !strings.Contains(err.Error(), "connecting to") {
		t.Errorf("got %v, want a failure to connect", err)
	}
	<-d.dialer.slots
	l.Put(ldaptest.ServiceDN, "userPassword", ldaptest.ServicePassword)
	l.Start()
	// No pause has begun.
	if err := login(t, d, "alice"); err != nil {
		t.Errorf("got %v, want a login", err)
	}
}
