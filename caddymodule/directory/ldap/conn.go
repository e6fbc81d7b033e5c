package ldap

import (
	"errors"
	"fmt"
	"net"

	"github.com/go-ldap/ldap/v3"
)

// conn is a connection for one question.
type conn struct {
	*ldap.Conn
	raw    net.Conn
	server string
	broken bool // the connection or the server has failed
}

func (c *conn) bindService(d *dialer) error {
	if err := c.bind(d.bindDN, string(d.bindPassword)); err != nil {
		c.broken = true // as if there were no server
		return fmt.Errorf("binding as bind_dn: %w", err)
	}
	return nil
}

func (c *conn) bind(dn, password string) error {
	_, err := c.SimpleBind(ldap.NewSimpleBindRequest(dn, password, nil))
	return c.check(err)
}

func (c *conn) search(base string, scope, limit int, filter string, attributes []string) (*ldap.SearchResult, error) {
	request := ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, limit, 0, false, filter, attributes, nil)
	request.EnforceSizeLimit = true
	result, err := c.Search(request)
	if errors.Is(err, ldap.ErrSizeLimitExceeded) {
		c.broken = true // the rest of the answer is not read
		return result, &ldap.Error{ResultCode: ldap.LDAPResultSizeLimitExceeded, Err: err}
	}
	return result, c.check(err)
}

// check records whether an error means that the connection has failed, or that the server
// is unavailable.
func (c *conn) check(err error) error {
	var answer *ldap.Error
	if err != nil && (!errors.As(err, &answer) || answer.ResultCode >= ldap.ErrorNetwork ||
		answer.ResultCode == ldap.LDAPResultBusy || answer.ResultCode == ldap.LDAPResultUnavailable) {
		c.broken = true
	}
	return err
}

// close closes the connection at once. Closing it properly would write, which may block.
func (c *conn) close() {
	_ = c.raw.Close()
	if c.Conn != nil {
		_ = c.Conn.Close()
	}
}

// meteredConn fails when more than a number of bytes have been read.
type meteredConn struct {
	net.Conn
	left int
}

func (m *meteredConn) Read(to []byte) (int, error) {
	n, err := m.Conn.Read(to)
	if m.left -= n; m.left < 0 {
		return 0, errors.New("the answer of the server is too long")
	}
	return n, err
}
