package caddymodule

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nodesName is the name of the site in the certificates of nodes.
const nodesName = "registry.example.com"

// nodes returns a site that is not running yet, and nodes of another one, which is in
// the same Caddy: sites with https that list each other, with their own caches and the
// given lines. They run when the first site is loaded, and answer at the addresses.
func nodes(t testing.TB, count int, lines ...string) (s *site, addresses []string) {
	t.Helper()
	s = newSite(t)
	var listeners []net.Listener // all at once, so that the ports differ
	for range count {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, free)
		addresses = append(addresses, free.Addr().String())
	}
	for _, free := range listeners {
		_ = free.Close()
	}
	certificate, key := s.certificate(nodesName)
	peers := fmt.Sprintf("peers {\n to %s\n transport http {\n tls_server_name %s\n tls_trust_pool file %s\n }\n}", strings.Join(addresses, " "), nodesName, certificate)
	for i, address := range addresses {
		_, port, _ := net.SplitHostPort(address)
		s.after += fmt.Sprintf("https://%s:%s {\n bind 127.0.0.1\n tls %s %s\n log\n dependency_proxy {\n name nodes\n storage filesystem %s {\n reserve off\n }\n %s\n %s\n }\n}\n",
			nodesName, port, certificate, key, filepath.Join(s.dir, fmt.Sprint("node", i+1)), peers, strings.Join(lines, "\n"))
	}
	return s, addresses
}

// certificate returns files with a certificate for a name, which is its own authority,
// and its key.
func (s *site) certificate(name string) (certificate, key string) {
	s.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		s.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		s.t.Fatal(err)
	}
	certificate, key = filepath.Join(s.dir, "nodes.pem"), filepath.Join(s.dir, "nodes.key")
	writeFile(s.t, certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(s.t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return certificate, key
}
