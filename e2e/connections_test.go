//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// hugeLayer is large enough to be fetched over several connections.
const hugeLayer = 200 << 20

// TestParallelConnections has three clients pull a layer at once. With four
// connections the upstream sends each byte once, and with one connection it
// receives a single request.
func TestParallelConnections(t *testing.T) {
	img := lab.push.single(t, "library/huge", "1", hugeLayer)
	big := img.layers[0].String()
	size := storedSize(t, big)
	for name, row := range map[string]struct {
		line  string
		parts bool
	}{"four": {"connections 4", true}, "one": {"connections 1", false}} {
		t.Run(name, func(t *testing.T) {
			p := startProxy(t, lab.accounts()+standardGroups+upstreamBlock("docker.io", plainEndpoint, row.line))
			lab.plain.forget()
			t.Run("at once", func(t *testing.T) {
				for name, pull := range map[string]func(*testing.T, *client, string, image){
					"docker": dockerPull, "skopeo": skopeoCopy, "crane": cranePull,
				} {
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						pull(t, loggedIn(t, p), p.reference("acme", img), img)
					})
				}
			})
			if sent := lab.plain.bytesOf(big); sent != size {
				t.Errorf("upstream sent %d bytes of a layer of %d", sent, size)
			}
			requests := 0
			for _, r := range lab.plain.requests() {
				if r.method == "GET" && strings.HasSuffix(r.path, big) {
					requests++
				}
			}
			if requests == 0 || requests > 1 != row.parts {
				t.Errorf("upstream was asked %d times", requests)
			}
			lab.plain.forget()
			cranePull(t, loggedIn(t, p), p.reference("acme", img), img)
			lab.plain.wantNoBlobs(t)
		})
	}
}

// skopeoCopy is skopeoPull and also compares the layers.
func skopeoCopy(t *testing.T, c *client, reference string, img image) {
	t.Helper()
	folder := t.TempDir()
	c.run(t, "skopeo", "copy", "docker://"+reference, "dir:"+folder)
	for _, layer := range img.layers {
		file, err := os.Open(filepath.Join(folder, layer.Encoded()))
		must(t, err)
		got, err := digest.SHA256.FromReader(file)
		_ = file.Close()
		must(t, err)
		same(t, got.String(), layer.String())
	}
}

// storedSize returns the size of a blob in the upstream registry.
func storedSize(t *testing.T, blob string) int64 {
	t.Helper()
	hex := strings.TrimPrefix(blob, "sha256:")
	info, err := os.Stat(filepath.Join(lab.storage(), "docker/registry/v2/blobs/sha256", hex[:2], hex, "data"))
	must(t, err)
	return info.Size()
}
