package pullthrough

import (
	"bytes"
	"io"
	"sync"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestRepositoryReplicaForManyClients checks that 100 clients at once ask a replica once for
// each content, and upstream never.
func TestRepositoryReplicaForManyClients(t *testing.T) {
	f, image, layer, bucket := replicated(t)
	red := f.repository("red", "team/app", from(bucket))
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			m, err := red.ManifestByDigest(t.Context(), image.Manifest, true)
			if err != nil || m.Status != Hit {
				t.Errorf("manifest: got the status %d and the error %v, want %d and none", m.Status, err, Hit)
			}
			m.Content.Close()
			reader, status, err := red.Blob(t.Context(), image.Layers[0])
			if err != nil {
				t.Errorf("blob: %v", err)
				return
			}
			defer reader.Close()
			if got, err := io.ReadAll(reader); err != nil || !bytes.Equal(got, layer) || status != Hit {
				t.Errorf("blob: got %d bytes, the status %d and the error %v, want %d bytes and the status %d", len(got), status, err, len(layer), Hit)
			}
		})
	}
	all.Wait()
	if asked := bucket.questions(); asked != 2 {
		t.Errorf("the replica was asked %d times, want twice", asked)
	}
	f.expectCounts("the pulls", registrytest.Counts{})
}
