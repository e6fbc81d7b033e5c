package upstream

import (
	"bufio"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/dial"
)

// TestRegistryMalformedResponse checks that errors about malformed responses do not
// repeat them: a server may quote the request.
func TestRegistryMalformedResponse(t *testing.T) {
	for name, answer := range map[string]string{
		"status":  "HTTP/1.1 that-must-not-leak https://evil.example\r\n\r\n",
		"version": "that-must-not-leak\r\n\r\n",
		"header":  "HTTP/1.1 200 OK\r\nthat-must-not-leak \x1b[31m\xff\r\n\r\n",
		"length":  "HTTP/1.1 200 OK\r\nContent-Length: that-must-not-leak\r\n\r\n",
		"coding":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: that-must-not-leak\r\n\r\n",
		"chunk":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nthat-must-not-leak\r\n",
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = conn.Write([]byte(answer))
				}
				_ = conn.Close()
			}
		}()
		transport := dial.NewTransport(dial.TransportConfig{AllowPrivate: true})
		t.Cleanup(transport.CloseIdleConnections)
		_, err = clientAt(t, "http://"+listener.Addr().String(), transport).Manifest(t.Context(), "a", "1")
		if text := wantKind(t, err, Unavailable).Error(); strings.Contains(text, "\x1b") || strings.Contains(text, "\xff") {
			t.Errorf("%s: got %q, want no bytes of the response in it", name, text)
		}
	}
}
