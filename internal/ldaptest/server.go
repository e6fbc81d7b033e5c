// Package ldaptest provides an LDAP server for tests. It implements binds, searches and
// StartTLS, and no other operation.
//
// [New] starts a server on the loopback interface that ends with the test, with a service
// account, three accounts and a certificate. A test adds entries with Put and Group, and
// changes the exported fields within Set to refuse binds, to delay responses or to see which
// connections and operations there were.
package ldaptest

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/porttest"
)

// Server is a running server. Its exported fields are used within Set, or with Mu held.
type Server struct {
	t    testing.TB
	Cert tls.Certificate
	Ca   string // path of a PEM file
	addr string

	Mu       sync.Mutex
	listener net.Listener
	secure   bool // LDAPS
	Conns    map[net.Conn]bool
	Most     int // connections at once
	Made     int // connections ever
	Entries  []*ldap.Entry
	dns      []string          // of binds
	filters  []string          // of searches
	Clear    []string          // operations without TLS, StartTLS itself apart
	Fault    func(tag uint64)  // runs before an answer; may take its time
	Refuse   map[string]uint16 // result codes of binds by DN, and of StartTLS by ""
}

// The service account, its password, and the subtree of the accounts.
const (
	ServiceDN       = "cn=caddy,dc=example,dc=com"
	ServicePassword = "ldap-password-that-must-not-leak"
	People          = "ou=people,dc=example,dc=com"
)

// PasswordOf returns the password of one of the first accounts: alice, bob and carol.
func PasswordOf(name string) string { return name + "-password-that-must-not-leak" }

// New starts a server, for LDAPS if secure is set. It has the service account and the
// accounts alice, bob and carol.
func New(t testing.TB, secure bool) *Server {
	t.Helper()
	l := &Server{t: t, secure: secure, Conns: make(map[net.Conn]bool), Refuse: make(map[string]uint16), Ca: filepath.Join(t.TempDir(), "ca.pem")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	l.Cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if err := os.WriteFile(l.Ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	l.Put(ServiceDN, "userPassword", ServicePassword)
	for _, name := range []string{"alice", "bob", "carol"} {
		l.Put("uid="+name+","+People, "uid", name, "userPassword", PasswordOf(name), "entryUUID", "uuid-"+name)
	}
	l.Start()
	t.Cleanup(l.Stop)
	return l
}

// Put adds an entry, or replaces it.
func (l *Server) Put(dn string, attributes ...string) {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	values := make(map[string][]string)
	for i := 0; i < len(attributes); i += 2 {
		values[attributes[i]] = append(values[attributes[i]], attributes[i+1])
	}
	l.Entries = append(slices.DeleteFunc(l.Entries, func(e *ldap.Entry) bool { return e.DN == dn }), ldap.NewEntry(dn, values))
}

// Remove removes an entry.
func (l *Server) Remove(dn string) {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.Entries = slices.DeleteFunc(l.Entries, func(e *ldap.Entry) bool { return e.DN == dn })
}

// Group adds a group with accounts as members, or replaces it.
func (l *Server) Group(name string, members ...string) {
	attributes := []string{"cn", name}
	for _, m := range members {
		attributes = append(attributes, "member", "uid="+m+","+People)
	}
	l.Put("cn="+name+",ou=groups,dc=example,dc=com", attributes...)
}

// Start starts the server again, at the same address, after Stop.
func (l *Server) Start() {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	if l.addr == "" {
		l.addr = porttest.Reserve(l.t)
	}
	listener, err := porttest.Listen(l.t.Context(), l.addr)
	if err != nil {
		l.t.Fatal(err)
	}
	l.listener = listener
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			l.Mu.Lock()
			l.Conns[conn] = true
			l.Made++
			l.Most = max(l.Most, len(l.Conns))
			l.Mu.Unlock()
			go l.serve(conn)
		}
	}()
}

// Stop stops the server and closes all connections.
func (l *Server) Stop() {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	_ = l.listener.Close()
	for conn := range l.Conns {
		_ = conn.Close()
	}
}

// URL returns the URL of the server.
func (l *Server) URL() string {
	if l.secure {
		return "ldaps://" + l.addr
	}
	return "ldap://" + l.addr
}

// Directory returns a `directory ldap` block that searches this server and trusts its
// certificate, with further lines.
func (l *Server) Directory(lines ...string) string {
	l.t.Helper()
	l.t.(*testing.T).Setenv("LDAP_PASSWORD", ServicePassword)
	lines = append([]string{
		"tls_trust_pool file " + l.Ca, "bind_dn " + ServiceDN, "bind_password {env.LDAP_PASSWORD}", "base_dn dc=example,dc=com",
	}, lines...)
	return "directory ldap " + l.URL() + " {\n" + strings.Join(lines, "\n") + "\n}\n"
}

// Set calls a function that uses the exported fields.
func (l *Server) Set(change func()) {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	change()
}

// Heard returns the DNs of the binds and the filters of the searches since the last call.
func (l *Server) Heard() (dns, filters []string) {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	dns, filters = l.dns, l.filters
	l.dns, l.filters = nil, nil
	return dns, filters
}

func (l *Server) serve(conn net.Conn) {
	raw := conn
	defer func() {
		_ = raw.Close()
		l.Set(func() { delete(l.Conns, raw) })
	}()
	config := &tls.Config{
		Certificates:     []tls.Certificate{l.Cert},
		CurvePreferences: []tls.CurveID{tls.CurveP256}, // others are slow with the race detector
	}
	encrypted := l.secure
	if encrypted {
		conn = tls.Server(conn, config)
	}
	bound, in := "", bufio.NewReader(conn)
	for {
		packet, err := ber.ReadPacket(in)
		if err != nil || len(packet.Children) < 2 {
			return
		}
		op := packet.Children[1]
		l.Mu.Lock()
		fault := l.Fault
		if !encrypted && op.Tag != ldap.ApplicationExtendedRequest {
			l.Clear = append(l.Clear, fmt.Sprint(op.Tag))
		}
		l.Mu.Unlock()
		if fault != nil {
			fault(uint64(op.Tag))
		}
		id := packet.Children[0].Value.(int64)
		switch op.Tag {
		case ldap.ApplicationBindRequest:
			code := l.bind(op, &bound)
			_, err = conn.Write(result(id, ldap.ApplicationBindResponse, code))
		case ldap.ApplicationSearchRequest:
			_, err = conn.Write(l.search(id, op, bound))
		case ldap.ApplicationExtendedRequest:
			l.Mu.Lock()
			code := l.Refuse[""]
			l.Mu.Unlock()
			_, err = conn.Write(result(id, ldap.ApplicationExtendedResponse, code))
			if code == 0 {
				conn, encrypted = tls.Server(conn, config), true
				in = bufio.NewReader(conn)
			}
		default:
			return
		}
		if err != nil {
			return
		}
	}
}
