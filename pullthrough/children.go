package pullthrough

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
)

// Children returns what a manifest or an index names: its config and layers, or
// its manifests (OCI image specification, "Image Manifest" and "Image Index", and
// Docker's formats before them). Content that names nothing, such as a layer or a
// config, has no children.
func Children(content io.Reader) []blobcache.Child {
	var children []blobcache.Child
	for _, c := range readChildren(content) {
		children = append(children, c.Child)
	}
	return children
}

// child is what a manifest or an index names.
type child struct {
	blobcache.Child
	size     int64     // according to the manifest, in bytes; 0 if it states none
	platform *Platform // of an image in an index; nil if it names none
	external bool      // clients fetch it from the URLs in the manifest
}

// readChildren returns the children of a manifest or an index.
func readChildren(content io.Reader) []child {
	type descriptor struct {
		Digest   digest.Digest `json:"digest"`
		Size     int64         `json:"size"`
		Platform *Platform     `json:"platform"`
		URLs     []string      `json:"urls"`
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
	// A layer is not JSON, which its first bytes tell. A field of a wrong type does not
	// hide the others.
	wrongType := new(json.UnmarshalTypeError)
	if err := json.NewDecoder(content).Decode(&m); err != nil && !errors.As(err, &wrongType) {
		return nil
	}
	var children []child
	add := func(d descriptor, compound bool) {
		if d.Digest != "" {
			children = append(children, child{blobcache.Child{Digest: d.Digest, Compound: compound}, d.Size, d.Platform, len(d.URLs) > 0})
		}
	}
	for _, manifest := range m.Manifests {
		add(manifest, true)
	}
	for _, layer := range append(m.Layers, m.Blobs...) {
		add(layer, false)
	}
	for _, layer := range m.FSLayers {
		add(descriptor{Digest: layer.BlobSum}, false)
	}
	add(m.Config, false)
	return children
}

// StoredSize returns the bytes of what a scope of the index has of an image or an
// index: of the content itself, and of everything that it names. What an upstream has
// only delivered to other scopes does not count.
func StoredSize(ctx context.Context, cache *blobcache.Cache, x *index.Index, scope string, root digest.Digest) (size int64) {
	for _, d := range cache.Tree(ctx, root) {
		if link, err := x.Link(ctx, scope, d); err == nil {
			size += max(link.Size, 0)
		}
	}
	return size
}
