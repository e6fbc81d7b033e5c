package caddymodule

import (
	"encoding/json"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
)

// parts returns what a manifest or an index names (OCI image specification,
// "Image Manifest" and "Image Index", and what came before them): its config
// and layers, its manifests. Layers are no JSON, which their first bytes tell,
// and the JSON of a config names nothing.
func parts(content io.Reader) []blobcache.Child {
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
		return nil
	}
	var named []blobcache.Child
	add := func(d digest.Digest, compound bool) {
		if d != "" {
			named = append(named, blobcache.Child{Digest: d, Compound: compound})
		}
	}
	for _, child := range m.Manifests {
		add(child.Digest, true)
	}
	for _, layer := range append(m.Layers, m.Blobs...) {
		add(layer.Digest, false)
	}
	for _, layer := range m.FSLayers {
		add(layer.BlobSum, false)
	}
	add(m.Config.Digest, false)
	return named
}
