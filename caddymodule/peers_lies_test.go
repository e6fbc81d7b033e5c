package caddymodule

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// replace puts a server in the place of a node, which the others know already.
func (c *peerNodes) replace(n *peerNode, serve http.HandlerFunc) {
	c.t.Helper()
	cert, err := tls.LoadX509KeyPair(c.cert, c.cert)
	if err != nil {
		c.t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(serve)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.StartTLS()
	c.t.Cleanup(server.Close)
	n.link.Lead(server.Listener.Addr().String())
}

// answerWith returns a handler that sends content as that of a digest and a type, and
// announces a size.
func answerWith(content []byte, d digest.Digest, mediaType string, size int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Docker-Content-Digest", d.String())
		h.Set("Content-Type", mediaType)
		h.Set("Content-Length", fmt.Sprint(size))
		h.Set("Cache-Status", "dependency-proxy; fwd=miss")
		_, _ = w.Write(content[:min(len(content), size)])
	}
}

// TestPeersLieAboutBlobs checks that whatever a node sends in place of a blob, no client
// gets a body that seems whole and is not the blob, and that the next pull is right.
func TestPeersLieAboutBlobs(t *testing.T) {
	const size = 50_000
	layer, other := sitetest.Random(1, size), sitetest.Random(2, size)
	d := digest.FromBytes(layer)
	flipped := append([]byte{layer[0] ^ 1}, layer[1:]...)
	for name, serve := range map[string]http.HandlerFunc{
		"wrong bytes":       answerWith(flipped, d, "application/octet-stream", size),
		"another digest":    answerWith(other, digest.FromBytes(other), "application/octet-stream", size),
		"a smaller size":    answerWith(layer, d, "application/octet-stream", size-1),
		"a larger size":     answerWith(layer, d, "application/octet-stream", size+1),
		"nothing":           answerWith(nil, d, "application/octet-stream", size),
		"a web page":        func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"an invalid status": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://example.com/", http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t)
			up.PutImage("team/app", "1", layer)
			c := startNodes(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
			order := c.ranked(d)
			c.replace(order[0], serve)
			client := order[1]
			for range 10 {
				response := client.Open(sitetest.BlobPath("acme", "team/app", d), sitetest.As("alice"))
				if got, read, err := digestOf(response); response.StatusCode == http.StatusOK && err == nil && got != d {
					t.Errorf("got a whole body of %d bytes with the digest %s, want %s or a body that breaks off", read, got, d)
				}
			}
			client.pullBlob(d, size)
			client.AwaitStored(d.String())
		})
	}
}

// TestPeersLieAboutManifests checks that clients get what upstream has although a node sends
// something else in place of a manifest.
func TestPeersLieAboutManifests(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("team/app", "1", sitetest.Random(1, 5000))
	right := up.RawManifest("team/app", image.Manifest)
	another := []byte(strings.Replace(string(right), "{", "{ ", 1))
	for name, serve := range map[string]http.HandlerFunc{
		"wrong bytes":    answerWith(another, image.Manifest, v1.MediaTypeImageManifest, len(another)),
		"another size":   answerWith(right, image.Manifest, v1.MediaTypeImageManifest, len(right)-1),
		"not a manifest": answerWith([]byte("<html>"), digest.FromString("<html>"), "text/html", 6),
		"no digest":      answerWith(right, "", v1.MediaTypeImageManifest, len(right)),
		"another type":   answerWith(right, image.Manifest, v1.MediaTypeImageIndex, len(right)),
	} {
		t.Run(name, func(t *testing.T) {
			c := startNodes(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
			for _, n := range c.all {
				c.replace(n, serve) // whoever is asked
			}
			for _, n := range c.all {
				for _, reference := range []string{"1", string(image.Manifest)} {
					n.Get(sitetest.ManifestPath("acme", "team/app", reference), sitetest.As("alice")).Content(t, right).
						Has(t, "Content-Type", v1.MediaTypeImageManifest).Has(t, "Docker-Content-Digest", string(image.Manifest))
				}
			}
		})
	}
}
