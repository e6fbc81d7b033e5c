package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// secure is a side of overTLS.
type secure struct {
	side
	proto string // as in a response
}

// overTLS compares the proxy and nginx, which serve the same file over TLS, with
// HTTP/1.1 and with HTTP/2. The client is Go's, as in Docker and containerd, and
// every pull has a connection of its own. It has as much to do as a server, so
// it is slower than that of warm.
func overTLS(s *settings) error {
	// A token is valid for the origin that has issued it.
	overHTTPS := *s
	overHTTPS.proxy = s.proxyTLS
	http.DefaultTransport = transport("HTTP/1.1")
	im, err := overHTTPS.image("latest")
	if err != nil {
		return err
	}
	nginx, err := family(s.nginxPID)
	if err != nil {
		return err
	}
	var sides []*secure
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		sides = append(sides,
			&secure{side{name: "proxy", pids: []int{s.proxyPID}, do: pullOver(proto, im.blob(s.proxyTLS, s.repository)), size: im.size}, proto},
			&secure{side{name: "nginx", pids: nginx, do: pullOver(proto, im.file(s.nginxTLS)), size: im.size}, proto})
	}
	for round := range s.rounds {
		for i := range sides {
			x := sides[(round+i)%len(sides)]
			if err := x.round(s); err != nil {
				return fmt.Errorf("%s over %s: %w", x.name, x.proto, err)
			}
		}
	}
	fmt.Printf("tls, %d client(s), %d rounds of %d MB, medians:\n", s.clients, s.rounds, int64(s.clients*s.pulls)*im.size/1e6)
	for _, x := range sides {
		fmt.Printf("  %-6s %-9s %5.2f GB/s  best %.2f  %s CPU s/GB\n", x.name, x.proto, median(x.rate), slices.Max(x.rate), perGB(x.cpu, x.bytes))
	}
	for _, pair := range [][2]int{{0, 1}, {2, 3}, {2, 0}, {3, 1}} {
		a, b := sides[pair[0]], sides[pair[1]]
		pairs := slices.Sorted(slices.Values(ratios(a.rate, b.rate)))
		fmt.Printf("  %s over %s is %.2f of %s over %s (median of pairs, quartiles %.2f to %.2f), with %.2f of its CPU\n", a.name, a.proto,
			median(pairs), b.name, b.proto, pairs[len(pairs)/4], pairs[(3*len(pairs)-1)/4], float64(a.cpu)/float64(b.cpu))
	}
	return nil
}

// transport returns a client transport for one protocol. It does not verify
// certificates.
func transport(proto string) *http.Transport {
	t := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: new(http.Protocols)}
	t.Protocols.SetHTTP1(proto == "HTTP/1.1")
	t.Protocols.SetHTTP2(proto == "HTTP/2.0")
	return t
}

// pullOver returns a function that downloads over a new connection.
func pullOver(proto string, r request) func() error {
	return func() error {
		t := transport(proto)
		defer t.CloseIdleConnections()
		q, err := http.NewRequest(http.MethodGet, r.base+r.path, nil)
		if err != nil {
			return err
		}
		if r.token != "" {
			q.Header.Set("Authorization", "Bearer "+r.token)
		}
		resp, err := t.RoundTrip(q)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.ContentLength != r.size || resp.Proto != proto || resp.TLS.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
			return fmt.Errorf("got %s %s with %d bytes and %s, want 200 with %d bytes and the same cipher for all", resp.Proto, resp.Status, resp.ContentLength, tls.CipherSuiteName(resp.TLS.CipherSuite), r.size)
		}
		if status := resp.Header.Get("Cache-Status"); r.token != "" && !strings.HasSuffix(status, "; hit") {
			return fmt.Errorf("got the Cache-Status %q, want a hit", status)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil && n != r.size {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
}

// certificate writes tls.crt and tls.key, with the certificate of the servers.
func certificate(s *settings) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for name, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(s.data, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}
