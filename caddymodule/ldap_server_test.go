package caddymodule

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
)

// ldapServer is as much of an LDAP server as the directory asks for, with the
// faults of one.
type ldapServer struct {
	t    testing.TB
	cert tls.Certificate
	ca   string // PEM file
	addr string

	mu       sync.Mutex
	listener net.Listener
	secure   bool // LDAPS
	conns    map[net.Conn]bool
	most     int // connections at once
	made     int // connections ever
	entries  []*ldap.Entry
	dns      []string          // of binds
	filters  []string          // of searches
	clear    []string          // operations without TLS, StartTLS itself apart
	fault    func(tag uint64)  // runs before an answer; may take its time
	refuse   map[string]uint16 // result codes of binds by DN, and of StartTLS by ""
}

const (
	ldapService  = "cn=caddy,dc=example,dc=com"
	ldapPassword = "ldap-password-that-must-not-leak"
	ldapPeople   = "ou=people,dc=example,dc=com"
)

// ldapPasswordOf returns the password of an account that the server begins with.
func ldapPasswordOf(name string) string { return name + "-password-that-must-not-leak" }

// newLDAP starts a server on the loopback with some accounts, each of which has
// its password, and groups.
func newLDAP(t testing.TB, secure bool) *ldapServer {
	t.Helper()
	l := &ldapServer{t: t, secure: secure, conns: make(map[net.Conn]bool), refuse: make(map[string]uint16), ca: filepath.Join(t.TempDir(), "ca.pem")}
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
	l.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if err := os.WriteFile(l.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	l.put(ldapService, "userPassword", ldapPassword)
	for _, name := range []string{"alice", "bob", "carol"} {
		l.put("uid="+name+","+ldapPeople, "uid", name, "userPassword", ldapPasswordOf(name), "entryUUID", "uuid-"+name)
	}
	l.start()
	t.Cleanup(l.stop)
	return l
}

// put adds an entry, or replaces it.
func (l *ldapServer) put(dn string, attributes ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	values := make(map[string][]string)
	for i := 0; i < len(attributes); i += 2 {
		values[attributes[i]] = append(values[attributes[i]], attributes[i+1])
	}
	l.entries = append(slices.DeleteFunc(l.entries, func(e *ldap.Entry) bool { return e.DN == dn }), ldap.NewEntry(dn, values))
}

func (l *ldapServer) remove(dn string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = slices.DeleteFunc(l.entries, func(e *ldap.Entry) bool { return e.DN == dn })
}

// group makes a group of these accounts.
func (l *ldapServer) group(name string, members ...string) {
	attributes := []string{"cn", name}
	for _, m := range members {
		attributes = append(attributes, "member", "uid="+m+","+ldapPeople)
	}
	l.put("cn="+name+",ou=groups,dc=example,dc=com", attributes...)
}

func (l *ldapServer) start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	address := l.addr
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		l.t.Fatal(err)
	}
	l.listener, l.addr = listener, listener.Addr().String()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			l.mu.Lock()
			l.conns[conn] = true
			l.made++
			l.most = max(l.most, len(l.conns))
			l.mu.Unlock()
			go l.serve(conn)
		}
	}()
}

// stop ends the server and all connections.
func (l *ldapServer) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.listener.Close()
	for conn := range l.conns {
		_ = conn.Close()
	}
}

func (l *ldapServer) url() string {
	if l.secure {
		return "ldaps://" + l.addr
	}
	return "ldap://" + l.addr
}

// directory is a block that searches here and trusts the certificate, with more
// lines.
func (l *ldapServer) directory(lines ...string) string {
	l.t.Helper()
	l.t.(*testing.T).Setenv("LDAP_PASSWORD", ldapPassword)
	lines = append([]string{
		"tls_trust_pool file " + l.ca, "bind_dn " + ldapService, "bind_password {env.LDAP_PASSWORD}", "base_dn dc=example,dc=com",
	}, lines...)
	return "directory ldap " + l.url() + " {\n" + strings.Join(lines, "\n") + "\n}\n"
}

func (l *ldapServer) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// heard returns the DNs of the binds and the filters since it was called last.
func (l *ldapServer) heard() (dns, filters []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	dns, filters = l.dns, l.filters
	l.dns, l.filters = nil, nil
	return dns, filters
}

func (l *ldapServer) serve(conn net.Conn) {
	raw := conn
	defer func() {
		_ = raw.Close()
		l.set(func() { delete(l.conns, raw) })
	}()
	config := &tls.Config{Certificates: []tls.Certificate{l.cert}}
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
		l.mu.Lock()
		fault := l.fault
		if !encrypted && op.Tag != ldap.ApplicationExtendedRequest {
			l.clear = append(l.clear, fmt.Sprint(op.Tag))
		}
		l.mu.Unlock()
		if fault != nil {
			fault(uint64(op.Tag))
		}
		id := packet.Children[0].Value.(int64)
		switch op.Tag {
		case ldap.ApplicationBindRequest:
			code := l.bind(op, &bound)
			_, err = conn.Write(ldapResult(id, ldap.ApplicationBindResponse, code))
		case ldap.ApplicationSearchRequest:
			_, err = conn.Write(l.search(id, op, bound))
		case ldap.ApplicationExtendedRequest:
			l.mu.Lock()
			code := l.refuse[""]
			l.mu.Unlock()
			_, err = conn.Write(ldapResult(id, ldap.ApplicationExtendedResponse, code))
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
