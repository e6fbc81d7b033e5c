// Command upstream is a registry with one repository, bench, and in it one
// image, bench:latest, whose first layer is large. It is as cheap as a server
// can be, so that what is measured is the proxy in front of it, and it counts.
//
//	GET /stats   what was sent so far
package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:18081", "address to listen on")
	size := flag.Int64("size", 1<<30, "bytes of the large layer")
	latency := flag.Duration("latency", 0, "wait before each answer")
	rate := flag.Float64("rate", 0, "MiB/s for each blob, 0 for as fast as it goes")
	flag.Parse()

	r := newRegistry(*size)
	r.latency, r.rate = *latency, *rate*(1<<20)
	server := &http.Server{Addr: *listen, Handler: r, ReadHeaderTimeout: time.Minute}
	log.Fatal(server.ListenAndServe())
}

const blockSize = 1 << 20

type registry struct {
	large    string // digest
	size     int64
	block    []byte
	small    map[string][]byte // by digest
	manifest []byte
	latency  time.Duration
	rate     float64 // bytes a second

	blobRequests, blobBytes atomic.Int64
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Size      int64  `json:"size"`
	Digest    string `json:"digest"`
}

func newRegistry(size int64) *registry {
	r := &registry{size: size, block: make([]byte, blockSize), small: map[string][]byte{}}
	_, _ = rand.NewChaCha8([32]byte{}).Read(r.block)
	h := sha256.New()
	_ = r.write(h, 0)
	r.large = "sha256:" + hex.EncodeToString(h.Sum(nil))

	const layer = "application/vnd.oci.image.layer.v1.tar+gzip"
	layers := []descriptor{{layer, size, r.large}}
	for i := range 7 { // as many as a common image has
		content := fmt.Appendf(nil, "layer %d", i)
		layers = append(layers, descriptor{layer, int64(len(content)), r.add(content)})
	}
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)
	r.manifest, _ = json.Marshal(map[string]any{ // plain values always marshal
		"schemaVersion": 2,
		"mediaType":     manifestType,
		"config":        descriptor{"application/vnd.oci.image.config.v1+json", int64(len(config)), r.add(config)},
		"layers":        layers,
	})
	return r
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (r *registry) add(content []byte) string {
	d := digestOf(content)
	r.small[d] = content
	return d
}

// write sends the large layer from an offset on: one random block over and
// over, each time with its number in front.
func (r *registry) write(w io.Writer, from int64) error {
	block := append([]byte(nil), r.block...)
	begin := time.Now()
	for off := from; off < r.size; {
		binary.BigEndian.PutUint64(block, uint64(off/blockSize))
		end := min(blockSize, r.size-off/blockSize*blockSize)
		n, err := w.Write(block[off%blockSize : end])
		if err != nil {
			return err
		}
		off += int64(n)
		if r.rate > 0 {
			time.Sleep(time.Until(begin.Add(time.Duration(float64(off-from) / r.rate * float64(time.Second)))))
		}
	}
	return nil
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	const repository = "/v2/bench/"
	path := req.URL.Path
	if path == "/stats" {
		_, _ = fmt.Fprintf(w, `{"requests":%d,"bytes":%d}`, r.blobRequests.Load(), r.blobBytes.Load())
		return
	}
	time.Sleep(r.latency)
	if path == "/v2/" {
		return
	}
	if reference, ok := strings.CutPrefix(path, repository+"manifests/"); ok {
		if d := digestOf(r.manifest); reference == "latest" || reference == d {
			r.send(w, req, d, manifestType, r.manifest)
			return
		}
	}
	if d, ok := strings.CutPrefix(path, repository+"blobs/"); ok {
		if content, ok := r.small[d]; ok {
			r.send(w, req, d, "application/octet-stream", content)
			return
		}
		if d == r.large {
			r.sendLarge(w, req)
			return
		}
	}
	http.NotFound(w, req)
}

func (r *registry) send(w http.ResponseWriter, req *http.Request, d, mediaType string, content []byte) {
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Docker-Content-Digest", d)
	h.Set("Content-Length", strconv.Itoa(len(content)))
	if req.Method != http.MethodHead {
		_, _ = w.Write(content)
	}
}

func (r *registry) sendLarge(w http.ResponseWriter, req *http.Request) {
	var from int64
	status := http.StatusOK
	h := w.Header()
	if first, ok := strings.CutPrefix(req.Header.Get("Range"), "bytes="); ok {
		from, _ = strconv.ParseInt(strings.TrimSuffix(first, "-"), 10, 64)
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, r.size-1, r.size))
		status = http.StatusPartialContent
	}
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", r.large)
	h.Set("ETag", `"`+r.large+`"`)
	h.Set("Content-Length", strconv.FormatInt(r.size-from, 10))
	w.WriteHeader(status)
	if req.Method == http.MethodHead {
		return
	}
	r.blobRequests.Add(1)
	_ = r.write(counted{w, &r.blobBytes}, from)
}

type counted struct {
	io.Writer
	n *atomic.Int64
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n.Add(int64(n))
	return n, err
}
