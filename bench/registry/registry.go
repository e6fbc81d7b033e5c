// Package registry implements a container registry for measurements. It has one
// repository, bench, with generated images: image 0 has the tag latest, and every
// image its number, such as bench:7. An image is generated when it is first
// requested.
//
// The first layer of an image is large and is computed while it is sent. It repeats
// one random block that begins with the numbers of the image and of the block, so
// that no two parts are equal. The registry does as little work as possible,
// because the server in front of it is measured. It supports ranges with a strong
// ETag, limits the rate of each connection, and counts what it sends.
package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Options configures a registry.
type Options struct {
	Sizes   []int64       // of the large layers in bytes; image n has size n modulo their number
	Latency time.Duration // the delay of each response
	Rate    float64       // the rate of each connection in bytes per second, 0 for no limit
}

// maxImages is the number of images.
const maxImages = 1 << 16

// Registry is an [http.Handler]. The rate applies only to servers that
// [Registry.Server] returns.
type Registry struct {
	options Options
	block   []byte
	config  descriptor
	layers  []descriptor // the small layers, which all images share

	mu     sync.Mutex
	images map[int]*Image
	large  map[string]*Image // by digest
	small  map[string][]byte // by digest

	requests, bytes, active atomic.Int64
}

// Stats counts the transfers of large layers.
type Stats struct {
	Requests int64 // responses with content
	Bytes    int64 // of content sent
	Active   int64 // responses in progress
}

// Image is a generated image.
type Image struct {
	Manifest []byte
	Digest   string // of the large layer
	Size     int64  // of the large layer, in bytes

	number int
	block  []byte
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Size      int64  `json:"size"`
	Digest    string `json:"digest"`
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// New returns a registry. It generates no image yet.
func New(options Options) *Registry {
	r := &Registry{
		options: options,
		block:   make([]byte, blockSize),
		images:  map[int]*Image{}, large: map[string]*Image{}, small: map[string][]byte{},
	}
	_, _ = rand.NewChaCha8([32]byte{}).Read(r.block)
	r.config = r.add(configType, []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`))
	for i := range 7 { // as many as a typical image has
		r.layers = append(r.layers, r.add(layerType, fmt.Appendf(nil, "layer %d", i)))
	}
	return r
}

// digestOf returns the digest of content.
func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// add stores small content and returns its descriptor.
func (r *Registry) add(mediaType string, content []byte) descriptor {
	d := digestOf(content)
	r.small[d] = content
	return descriptor{mediaType, int64(len(content)), d}
}

// Image returns image n. It hashes the large layer when the image is first
// requested.
func (r *Registry) Image(n int) *Image {
	r.mu.Lock()
	defer r.mu.Unlock()
	if im := r.images[n]; im != nil {
		return im
	}
	im := &Image{number: n, block: r.block, Size: r.options.Sizes[n%len(r.options.Sizes)]}
	h := sha256.New()
	_ = im.write(h, 0, im.Size, blockSize) // a hash returns no error
	im.Digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	im.Manifest, _ = json.Marshal(map[string]any{ // plain values always marshal
		"schemaVersion": 2,
		"mediaType":     manifestType,
		"config":        r.config,
		"layers":        append([]descriptor{{layerType, im.Size, im.Digest}}, r.layers...),
	})
	r.images[n], r.large[im.Digest] = im, im
	return im
}

// Stats returns the current counts.
func (r *Registry) Stats() Stats {
	return Stats{Requests: r.requests.Load(), Bytes: r.bytes.Load(), Active: r.active.Load()}
}

// Server returns a server of the registry that limits the rate of each connection.
func (r *Registry) Server(address string) *http.Server {
	return &http.Server{
		Addr: address, Handler: r, ReadHeaderTimeout: time.Minute,
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, pacerKey{}, &pacer{rate: r.options.Rate})
		},
	}
}

// tagged returns the image with a tag, or nil.
func (r *Registry) tagged(tag string) *Image {
	if tag == "latest" {
		return r.Image(0)
	}
	if n, err := strconv.Atoi(tag); err == nil && n >= 0 && n < maxImages {
		return r.Image(n)
	}
	return nil
}

// manifest returns the manifest with a tag or digest, or nil.
func (r *Registry) manifest(reference string) []byte {
	if im := r.tagged(reference); im != nil {
		return im.Manifest
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, im := range r.images {
		if digestOf(im.Manifest) == reference {
			return im.Manifest
		}
	}
	return nil
}
