package pullthrough

import (
	"encoding/json"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
)

// Children returns what a manifest or an index names: its config and layers, or
// its manifests (OCI image specification, "Image Manifest" and "Image Index", and
// Docker's formats before them). Content that names nothing, such as a layer or a
// config, has no children.
func Children(content io.Reader) []blobcache.Child {
	type descriptor struct {
		Digest digest.Digest `json:"digest"`
	}
	var m struct {
		Manifests []descriptor `json:"manifests"`
		Config    descriptor   `json:"config"`
		Layers    []descriptor `json:"layers"`
		Blobs     []descriptor `json:"blobs"` // of an artifact manifest
		FSLayers  []struct {
			BlobSum digest.Digest `json:"blobSum"`
		} `json:"fsLayers"` // of Docker's schema 1
	}
	if json.NewDecoder(content).Decode(&m) != nil {
		return nil // a layer is not JSON, which its first bytes tell
	}
	var children []blobcache.Child
	add := func(d digest.Digest, compound bool) {
		if d != "" {
			children = append(children, blobcache.Child{Digest: d, Compound: compound})
		}
	}
	for _, manifest := range m.Manifests {
		add(manifest.Digest, true)
	}
	for _, layer := range append(m.Layers, m.Blobs...) {
		add(layer.Digest, false)
	}
	for _, layer := range m.FSLayers {
		add(layer.BlobSum, false)
	}
	add(m.Config.Digest, false)
	return children
}
