package caddymodule

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
	// ldapIdle is how long an unused connection is kept.
	ldapIdle = time.Minute
	// ldapRetry is how long after a failure no server is tried again.
	ldapRetry = time.Second
	// ldapAnswer is how much a server may send for one question, in bytes.
	ldapAnswer = 4 << 20
)

// ldapPool holds connections to the first of some servers that can be reached.
// There are as many at most as there are slots.
type ldapPool struct {
	servers      []*url.URL
	startTLS     bool
	tls          *tls.Config // nil for the default
	bindDN       string
	bindPassword secret.String
	timeout      time.Duration
	slots        chan struct{}
	strangers    chan struct{} // holds one for each of their logins that may ask
	logger       *zap.Logger

	mu       sync.Mutex
	idle     []*ldapConn // the one that was used last at the end
	closed   bool
	first    int   // the server to try first
	failure  error // since the last success
	failedAt time.Time
}

// enter waits for the turn of a login, which lasts until leave is called. Strangers
// take half of the connections at most, so that however many of them try, what is
// asked about members does not wait behind them.
func (p *ldapPool) enter(ctx context.Context, friendly bool) (leave func(), err error) {
	if friendly {
		return func() {}, nil
	}
	select {
	case p.strangers <- struct{}{}:
		return func() { <-p.strangers }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for a turn: %w", ctx.Err())
	}
}

// use lends a connection for some questions: one that is bound as the service
// account, or one for binding as somebody else. What fails on a connection that
// has been idle is tried again on a new one.
func (p *ldapPool) use(ctx context.Context, service bool, op func(*ldapConn) error) error {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("waiting for a connection: %w", ctx.Err())
	}
	defer func() { <-p.slots }()
	for {
		c, reused, err := p.take(ctx, service)
		if err != nil {
			return err
		}
		c.left.Store(ldapAnswer)
		if service {
			err = c.bindService(p)
		}
		if err == nil {
			err = op(c)
		}
		if !c.broken {
			p.put(c)
			return err
		}
		c.close()
		p.drop()
		if !reused {
			p.failed(fmt.Errorf("%s: %w", c.server, err))
			return err
		}
	}
}

// take prefers a connection that is bound as it is wanted; there is room for a
// new one as long as not all slots have one.
func (p *ldapPool) take(ctx context.Context, service bool) (c *ldapConn, reused bool, err error) {
	p.mu.Lock()
	p.clean()
	at := -1
	for i, c := range p.idle {
		if c.service == service || at < 0 && len(p.idle)+len(p.slots) > cap(p.slots) {
			at = i
		}
	}
	if at >= 0 {
		c := p.idle[at]
		p.idle = append(p.idle[:at], p.idle[at+1:]...)
		p.mu.Unlock()
		return c, true, nil
	}
	failure := p.failure
	if time.Since(p.failedAt) > ldapRetry {
		failure = nil
	}
	first := p.first
	p.mu.Unlock()
	if failure != nil {
		return nil, false, failure
	}
	c, err = p.dial(ctx, first)
	if err != nil {
		p.failed(err)
	}
	return c, false, err
}

func (p *ldapPool) put(c *ldapConn) {
	c.used = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure != nil {
		p.failure = nil
		p.logger.Info("the LDAP server answers again", zap.String("server", c.server))
	}
	if p.closed {
		c.close()
		return
	}
	p.idle = append(p.idle, c)
}

// clean closes what is idle for long, or was closed by the server. Whoever
// calls it has locked the pool.
func (p *ldapPool) clean() {
	kept := p.idle[:0]
	for _, c := range p.idle {
		if c.IsClosing() || time.Since(c.used) > ldapIdle {
			c.close()
			continue
		}
		kept = append(kept, c)
	}
	p.idle = kept
}

// drop closes all that is idle.
func (p *ldapPool) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		c.close()
	}
	p.idle = nil
}

func (p *ldapPool) close() {
	p.drop()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
}

func (p *ldapPool) failed(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure == nil {
		p.logger.Warn("the LDAP server cannot be asked; known answers stand for a while", zap.Error(err))
	}
	p.failure, p.failedAt = err, time.Now()
	p.first = (p.first + 1) % len(p.servers)
}

// dial connects to the first server that lets it.
func (p *ldapPool) dial(ctx context.Context, first int) (*ldapConn, error) {
	var failures []error
	for i := range p.servers {
		server := p.servers[(first+i)%len(p.servers)]
		c, err := p.dialServer(ctx, server)
		if err == nil {
			return c, nil
		}
		failures = append(failures, fmt.Errorf("connecting to %s: %w", server.Redacted(), err))
	}
	return nil, errors.Join(failures...)
}

func (p *ldapPool) dialServer(ctx context.Context, server *url.URL) (*ldapConn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	address := net.JoinHostPort(server.Hostname(), ldapPort(server))
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &ldapConn{raw: raw, server: server.Host}
	c.left.Store(ldapAnswer)
	// The handshakes take no context of their own.
	if err := raw.SetDeadline(time.Now().Add(p.timeout)); err != nil {
		c.close()
		return nil, err
	}
	if err := p.begin(ctx, c, server); err != nil {
		c.close()
		return nil, err
	}
	return c, raw.SetDeadline(time.Time{})
}

// begin speaks TLS where that is wanted, and LDAP on it.
func (p *ldapPool) begin(ctx context.Context, c *ldapConn, server *url.URL) error {
	config := p.tls.Clone()
	if config == nil {
		config = new(tls.Config)
	}
	if config.ServerName == "" {
		config.ServerName = server.Hostname()
	}
	var conn net.Conn = &meteredConn{c.raw, &c.left}
	if server.Scheme == "ldaps" {
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return err
		}
		conn = secure
	}
	c.Conn = ldap.NewConn(conn, server.Scheme == "ldaps")
	c.SetTimeout(p.timeout)
	c.Start()
	if !p.startTLS {
		return nil
	}
	if err := c.StartTLS(config); err != nil {
		return fmt.Errorf("StartTLS: %w", err)
	}
	return nil
}

func ldapPort(server *url.URL) string {
	switch {
	case server.Port() != "":
		return server.Port()
	case server.Scheme == "ldaps":
		return ldap.DefaultLdapsPort
	}
	return ldap.DefaultLdapPort
}
