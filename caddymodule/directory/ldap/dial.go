package ldap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/secret"
)

const (
	// retryAfter is the time after a failure in which no server is tried.
	retryAfter = time.Second
	// maxAnswer is the limit on what a server sends for one question, in bytes.
	maxAnswer = 4 << 20
)

// dialer connects to the first of some servers that can be reached, for one
// question at a time. There are as many connections at most as there are slots.
type dialer struct {
	servers      []*url.URL
	startTLS     bool
	tls          *tls.Config // nil for the default
	bindDN       string
	bindPassword secret.String
	timeout      time.Duration
	slots        chan struct{}
	unknown      chan struct{} // holds one for each login from an unknown address
	logger       *zap.Logger

	mu       sync.Mutex
	first    int   // the server to try first
	failure  error // since the last success
	failedAt time.Time
}

// enter waits for the turn of a login, which lasts until leave is called. Logins from
// unknown addresses get at most half of the connections, so a flood of them does not
// delay questions about members.
func (d *dialer) enter(ctx context.Context, friendly bool) (leave func(), err error) {
	if friendly {
		return func() {}, nil
	}
	select {
	case d.unknown <- struct{}{}:
		return func() { <-d.unknown }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for a turn: %w", ctx.Err())
	}
}

// use calls op with a new connection, which is bound as the service account if service is
// set.
func (d *dialer) use(ctx context.Context, service bool, op func(*conn) error) error {
	select {
	case d.slots <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("waiting for a connection: %w", ctx.Err())
	}
	defer func() { <-d.slots }()
	first, err := d.next()
	if err != nil {
		return err
	}
	c, err := d.dial(ctx, first)
	if err != nil {
		d.failed(err)
		return err
	}
	defer c.close()
	if service {
		err = c.bindService(d)
	}
	if err == nil {
		err = op(c)
	}
	if c.broken {
		d.failed(fmt.Errorf("%s: %w", c.server, err))
		return err
	}
	d.succeeded(c.server)
	return err
}

// reach connects to the first server that can be reached, and binds as the service
// account if there is one. The connection is one more than there are slots, which may
// all be in use, and neither waits for the end of a pause nor begins one.
func (d *dialer) reach(ctx context.Context) error {
	d.mu.Lock()
	first := d.first
	d.mu.Unlock()
	c, err := d.dial(ctx, first)
	if err != nil {
		return err
	}
	defer c.close()
	if d.bindDN == "" {
		return nil
	}
	defer context.AfterFunc(ctx, func() { _ = c.raw.Close() })()
	return c.bindService(d)
}

// next returns the index of the server to try first, or the last failure if that was less
// than retryAfter ago.
func (d *dialer) next() (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failure != nil && time.Since(d.failedAt) <= retryAfter {
		return 0, d.failure
	}
	return d.first, nil
}

func (d *dialer) succeeded(server string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failure != nil {
		d.failure = nil
		d.logger.Info("the LDAP server answers again", zap.String("server", server))
	}
}

func (d *dialer) failed(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failure == nil {
		d.logger.Warn("the LDAP server cannot be asked; remembered answers are used for a while", zap.Error(err))
	}
	d.failure, d.failedAt = err, time.Now()
	d.first = (d.first + 1) % len(d.servers)
}

// dial connects to the first server that can be reached, beginning with an index.
func (d *dialer) dial(ctx context.Context, first int) (*conn, error) {
	var failures []error
	for i := range d.servers {
		server := d.servers[(first+i)%len(d.servers)]
		c, err := d.dialServer(ctx, server)
		if err == nil {
			return c, nil
		}
		failures = append(failures, fmt.Errorf("connecting to %s: %w", server.Redacted(), err))
	}
	return nil, errors.Join(failures...)
}

func (d *dialer) dialServer(ctx context.Context, server *url.URL) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	address := net.JoinHostPort(server.Hostname(), portOf(server))
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &conn{raw: raw, server: server.Host}
	// StartTLS takes no context.
	if err := raw.SetDeadline(time.Now().Add(d.timeout)); err != nil {
		c.close()
		return nil, err
	}
	if err := d.begin(ctx, c, server); err != nil {
		c.close()
		return nil, err
	}
	return c, raw.SetDeadline(time.Time{})
}

// begin performs the TLS handshake, if one is configured, and starts LDAP.
func (d *dialer) begin(ctx context.Context, c *conn, server *url.URL) error {
	config := d.tls.Clone()
	if config == nil {
		config = new(tls.Config)
	}
	if config.ServerName == "" {
		config.ServerName = server.Hostname()
	}
	var conn net.Conn = &meteredConn{c.raw, maxAnswer}
	if server.Scheme == "ldaps" {
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return err
		}
		conn = secure
	}
	c.Conn = ldap.NewConn(conn, server.Scheme == "ldaps")
	c.SetTimeout(d.timeout)
	c.Start()
	if !d.startTLS {
		return nil
	}
	if err := c.StartTLS(config); err != nil {
		return fmt.Errorf("StartTLS: %w", err)
	}
	return nil
}

func portOf(server *url.URL) string {
	switch {
	case server.Port() != "":
		return server.Port()
	case server.Scheme == "ldaps":
		return ldap.DefaultLdapsPort
	}
	return ldap.DefaultLdapPort
}
