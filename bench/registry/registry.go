// Package registry is a container registry with one repository, bench, of made
// up images. Image 0 is bench:latest, image 7 is bench:7, and there are as many
// as are asked for. The first layer of each is large and is computed as it is
// sent: one random block over and over, with the image and the place in front,
// so that any part can be told from any other. It is as cheap as a server can
// be, since what stands before it is what is measured. It honours ranges with
// a strong ETag, holds each connection to a rate, and counts.
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

// Options are what a registry can do.
type Options struct {
	Sizes   []int64       // bytes of the large layers: image n has that at n modulo their number
	Latency time.Duration // before each answer
	Rate    float64       // bytes a second of each connection, 0 for as fast as it goes
}

// Images is how many there are.
const Images = 1 << 16

// Registry is an [http.Handler]. [Registry.Server] makes it keep its rate.
type Registry struct {
	options Options
	block   []byte
	config  descriptor
	layers  []descriptor // the small ones, of all images

	mu     sync.Mutex
	images map[int]*Image
	large  map[string]*Image // by digest
	small  map[string][]byte // by digest

	requests, bytes, active atomic.Int64
}

// Stats count what was sent of the large layers.
type Stats struct {
	Requests int64 // answered with content
	Bytes    int64
	Active   int64 // answers under way
}

// Image is one of the registry's.
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

// New returns a registry whose images are made when they are first asked for.
func New(options Options) *Registry {
	r := &Registry{
		options: options,
		block:   make([]byte, blockSize),
		images:  map[int]*Image{}, large: map[string]*Image{}, small: map[string][]byte{},
	}
	_, _ = rand.NewChaCha8([32]byte{}).Read(r.block)
	r.config = r.add(configType, []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`))
	for i := range 7 { // as many as a common image has
		r.layers = append(r.layers, r.add(layerType, fmt.Appendf(nil, "layer %d", i)))
	}
	return r
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (r *Registry) add(mediaType string, content []byte) descriptor {
	d := digestOf(content)
	r.small[d] = content
	return descriptor{mediaType, int64(len(content)), d}
}

// Image returns image n, which takes as long as hashing it when it is new.
func (r *Registry) Image(n int) *Image {
	r.mu.Lock()
	defer r.mu.Unlock()
	if im := r.images[n]; im != nil {
		return im
	}
	im := &Image{number: n, block: r.block, Size: r.options.Sizes[n%len(r.options.Sizes)]}
	h := sha256.New()
	_ = im.write(h, 0, im.Size, blockSize) // a hash takes everything
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

// Stats returns the counts so far.
func (r *Registry) Stats() Stats {
	return Stats{Requests: r.requests.Load(), Bytes: r.bytes.Load(), Active: r.active.Load()}
}

// Server returns a server of the registry in which the rate is each connection's.
func (r *Registry) Server(address string) *http.Server {
	return &http.Server{
		Addr: address, Handler: r, ReadHeaderTimeout: time.Minute,
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, pacerKey{}, &pacer{rate: r.options.Rate})
		},
	}
}

// named returns the image of a tag, if it is one.
func (r *Registry) named(tag string) *Image {
	if tag == "latest" {
		return r.Image(0)
	}
	if n, err := strconv.Atoi(tag); err == nil && n >= 0 && n < Images {
		return r.Image(n)
	}
	return nil
}

// manifest returns what a tag or digest names, nil if there is none.
func (r *Registry) manifest(reference string) []byte {
	if im := r.named(reference); im != nil {
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
