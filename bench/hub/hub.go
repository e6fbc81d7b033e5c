// Package hub implements a registry for measurements that behaves like Docker Hub, with
// a token service and a pull limit, and that can fall silent or refuse everybody.
//
// It has one repository, bench, with the tags 0, 1, 2 and so on. Each is an index of
// one small image, so that a client needs two manifests for it, and can be moved to a
// new image.
package hub

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Mode is how a Hub answers.
type Mode int

const (
	Healthy Mode = iota
	Silent       // it accepts connections and requests, and answers none
	Abusive      // it answers 429 with a plain text body, as if there were an attack
)

// Options configures a Hub.
type Options struct {
	Tags   int           // their number
	Limit  int           // of pulls in a window, 0 for none
	Window time.Duration // of the limit, from the first pull on
}

// Counts are what a Hub has received and answered.
type Counts struct {
	Connections int // accepted
	Requests    int // of any kind, answered or not
	Checks      int // HEAD of manifests, answered with the content's headers
	Pulls       int // GET of manifests, answered with the content: those that the limit counts
	Limited     int // answers with 429
}

// Hub is an [http.Handler]. It is safe for concurrent use.
type Hub struct {
	options Options

	mu       sync.Mutex
	mode     Mode
	changed  chan struct{} // closed by a change of the mode
	delay    time.Duration
	versions []int
	tags     []string // digests of the indexes
	objects  map[string]object
	counts   Counts
	pulls    int // in this window
	began    time.Time
}

type object struct {
	mediaType string // of a manifest, or empty
	content   []byte
}

const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// New returns a healthy Hub.
func New(options Options) *Hub {
	h := &Hub{
		options: options, changed: make(chan struct{}), objects: make(map[string]object),
		versions: make([]int, options.Tags), tags: make([]string, options.Tags),
	}
	for n := range h.tags {
		h.Move(n)
	}
	return h
}

// Move lets a tag stand for a new image.
func (h *Hub) Move(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.versions[n]++
	config := h.add(configType, false, map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": []string{}}})
	layer := h.add(layerType, false, fmt.Sprintf("layer of tag %d, version %d", n, h.versions[n]))
	image := h.add(manifestType, true, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": []any{layer}})
	image["platform"] = map[string]string{"architecture": "amd64", "os": "linux"}
	index := h.add(indexType, true, map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []any{image}})
	h.tags[n], _ = index["digest"].(string)
}

// add stores content and returns its descriptor.
func (h *Hub) add(mediaType string, manifest bool, value any) map[string]any {
	content, err := json.Marshal(value)
	if err != nil {
		panic(err) // plain values always marshal
	}
	sum := sha256.Sum256(content)
	d := "sha256:" + hex.EncodeToString(sum[:])
	o := object{content: content}
	if manifest {
		o.mediaType = mediaType
	}
	h.objects[d] = o
	return map[string]any{"mediaType": mediaType, "digest": d, "size": len(content)}
}

// Digest returns the digest of the index that a tag stands for.
func (h *Hub) Digest(n int) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tags[n]
}

// Answer sets how requests are answered, and after which delay. Requests that a silent
// Hub has received are never answered.
func (h *Hub) Answer(mode Mode, delay time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mode, h.delay = mode, delay
	close(h.changed)
	h.changed = make(chan struct{})
}

// Renew begins a new window of the limit with the next pull.
func (h *Hub) Renew() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.began = time.Time{}
}

// Counts returns the current counts.
func (h *Hub) Counts() Counts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counts
}

// Sub returns what was counted after other.
func (c Counts) Sub(other Counts) Counts {
	return Counts{c.Connections - other.Connections, c.Requests - other.Requests, c.Checks - other.Checks, c.Pulls - other.Pulls, c.Limited - other.Limited}
}

// Listen serves at an address until the returned function is called.
func (h *Hub) Listen(address string) (closeServer func(), err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			h.count(func(c *Counts) { c.Connections++ })
		}
	}}
	go func() { _ = server.Serve(listener) }()
	return func() { _ = server.Close() }, nil
}

func (h *Hub) count(f func(*Counts)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(&h.counts)
}

// find returns what a reference to a manifest or a digest of a blob stands for.
func (h *Hub) find(reference string) (digest string, o object) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n, err := strconv.Atoi(reference); err == nil && n >= 0 && n < len(h.tags) {
		reference = h.tags[n]
	}
	return reference, h.objects[reference]
}
