package sitetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/porttest"
)

// Nodes returns a site that is not running yet, and nodes of another one, which is in
// the same Caddy: sites with https that list each other, with their own caches and the
// given lines. They run when the first site is loaded, and answer at the addresses, which
// are those of connectors.
func Nodes(t testing.TB, count int, lines ...string) (s *Site, addresses []string) {
	t.Helper()
	s = NewSite(t)
	var ports []string
	for range count {
		host := porttest.Reserve(t)
		ports = append(ports, PortOf(host))
		addresses = append(addresses, Connect(t, host).Addr().String())
	}
	_, authority, leaf := Certificate(t, s.Dir)
	peers := fmt.Sprintf("peers {\n to %s\n transport http {\n tls_server_name %s\n tls_trust_pool file %s\n }\n}", strings.Join(addresses, " "), ClusterHost, authority)
	for i, port := range ports {
		s.After += fmt.Sprintf("https://%s:%s {\n bind 127.0.0.1\n tls %s %[3]s\n log\n dependency_proxy {\n name nodes\n storage filesystem %s {\n reserve off\n }\n %s\n %s\n }\n}\n",
			ClusterHost, port, leaf, filepath.Join(s.Dir, fmt.Sprint("node", i+1)), peers, strings.Join(lines, "\n"))
	}
	return s, addresses
}

// Certificate returns the roots with a new authority, a file with its certificate, and
// one with a key and a certificate for all nodes.
func Certificate(t testing.TB, dir string) (roots *x509.CertPool, authority, leaf string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, DNSNames: []string{ClusterHost},
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(public)
	authority, leaf = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "node.pem")
	for name, content := range map[string][]byte{authority: public, leaf: append(public, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return roots, authority, leaf
}

// ClusterHost is the host name of all nodes.
const ClusterHost = "registry.example.com"
