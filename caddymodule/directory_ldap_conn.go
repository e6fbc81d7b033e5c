package caddymodule

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// ldapConn is a connection that one at a time uses.
type ldapConn struct {
	*ldap.Conn
	raw     net.Conn
	left    atomic.Int64 // bytes that may still be read
	server  string
	service bool // it is bound as the service account
	broken  bool
	used    time.Time
}

func (c *ldapConn) bindService(p *ldapPool) error {
	if c.service {
		return nil
	}
	if err := c.bind(p.bindDN, string(p.bindPassword)); err != nil {
		c.broken = true // nothing can be asked, as if there were no server
		return fmt.Errorf("binding as bind_dn: %w", err)
	}
	c.service = true
	return nil
}

func (c *ldapConn) bind(dn, password string) error {
	c.service = false
	_, err := c.SimpleBind(ldap.NewSimpleBindRequest(dn, password, nil))
	return c.check(err)
}

func (c *ldapConn) search(base string, scope, limit int, filter string, attributes []string) (*ldap.SearchResult, error) {
	request := ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, limit, 0, false, filter, attributes, nil)
	request.EnforceSizeLimit = true
	result, err := c.Search(request)
	if errors.Is(err, ldap.ErrSizeLimitExceeded) {
		c.broken = true // more is to come that nobody reads
		return result, &ldap.Error{ResultCode: ldap.LDAPResultSizeLimitExceeded, Err: err}
	}
	return result, c.check(err)
}

// check notes whether an error is the connection's, or that of a server that is
// about to go.
func (c *ldapConn) check(err error) error {
	var answer *ldap.Error
	if err != nil && (!errors.As(err, &answer) || answer.ResultCode >= ldap.ErrorNetwork ||
		answer.ResultCode == ldap.LDAPResultBusy || answer.ResultCode == ldap.LDAPResultUnavailable) {
		c.broken = true
	}
	return err
}

// close ends the connection at once: what is written may hang.
func (c *ldapConn) close() {
	_ = c.raw.Close()
	if c.Conn != nil {
		_ = c.Conn.Close()
	}
}

// meteredConn ends when too much was read.
type meteredConn struct {
	net.Conn
	left *atomic.Int64
}

func (m *meteredConn) Read(to []byte) (int, error) {
	n, err := m.Conn.Read(to)
	if m.left.Add(-int64(n)) < 0 {
		return 0, errors.New("the server sends too much")
	}
	return n, err
}
