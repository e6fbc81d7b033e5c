//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"

// image is an image that a test has pushed to the upstream registry.
type image struct {
	repository, tag string
	digest          digest.Digest // of the manifest or index behind the tag
	manifest        digest.Digest // of the manifest for this machine
	config          digest.Digest // of the configuration for this machine
	layers          []digest.Digest
	otherConfig     digest.Digest // of the configuration for the other machine in an index
}

// blobs returns the digests of the blobs that a pull on this machine needs.
func (i image) blobs() []string {
	all := []string{i.config.String()}
	for _, layer := range i.layers {
		all = append(all, layer.String())
	}
	return all
}

// blobsFor returns the digests of the blobs that a pull by a client needs. The service
// of containerd 2 also reads the configurations for other machines.
func (i image) blobsFor(client string) []string {
	if client == "ctr2" && i.otherConfig != "" {
		return append(i.blobs(), i.otherConfig.String())
	}
	return i.blobs()
}

// pusher pushes images with random content to a registry.
type pusher struct {
	registry string // http://host:port
}

// single pushes an image in Docker's media types with a layer of each size.
func (p pusher) single(t *testing.T, repository, tag string, sizes ...int) image {
	t.Helper()
	img := image{repository: repository, tag: tag}
	manifest := p.platform(t, &img, runtime.GOARCH, dockerManifest, sizes)
	img.digest = p.manifest(t, repository, tag, dockerManifest, manifest)
	img.manifest = img.digest
	return img
}

// index pushes an OCI index with an image for this machine and one for another.
func (p pusher) index(t *testing.T, repository, tag string, sizes ...int) image {
	t.Helper()
	img := image{repository: repository, tag: tag}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for _, arch := range []string{"s390x", runtime.GOARCH} {
		img.layers, img.otherConfig = nil, img.config
		manifest := p.platform(t, &img, arch, v1.MediaTypeImageManifest, sizes)
		img.manifest = p.manifest(t, repository, digest.FromBytes(manifest).String(), v1.MediaTypeImageManifest, manifest)
		index.Manifests = append(index.Manifests, v1.Descriptor{
			MediaType: v1.MediaTypeImageManifest,
			Digest:    img.manifest,
			Size:      int64(len(manifest)),
			Platform:  &v1.Platform{OS: "linux", Architecture: arch},
		})
	}
	img.digest = p.manifest(t, repository, tag, v1.MediaTypeImageIndex, asJSON(t, index))
	return img
}

// platform pushes a configuration and layers, and returns the manifest.
func (p pusher) platform(t *testing.T, img *image, arch, mediaType string, sizes []int) []byte {
	t.Helper()
	configType, layerType := v1.MediaTypeImageConfig, v1.MediaTypeImageLayerGzip
	if mediaType == dockerManifest {
		configType = "application/vnd.docker.container.image.v1+json"
		layerType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	}
	config := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: arch}}
	config.RootFS.Type = "layers"
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType}
	for n, size := range sizes {
		content, diffID := layer(t, fmt.Sprintf("file-%d", n), size)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
		desc := p.blob(t, img.repository, layerType, content)
		manifest.Layers = append(manifest.Layers, desc)
		img.layers = append(img.layers, desc.Digest)
	}
	manifest.Config = p.blob(t, img.repository, configType, asJSON(t, config))
	img.config = manifest.Config.Digest
	return asJSON(t, manifest)
}

// layer returns a compressed layer with one random file, so that layers differ.
func layer(t *testing.T, name string, size int) (content []byte, diffID digest.Digest) {
	t.Helper()
	file := make([]byte, size)
	_, _ = rand.Read(file)
	var out bytes.Buffer
	zip, err := gzip.NewWriterLevel(&out, gzip.NoCompression)
	must(t, err)
	sum := digest.SHA256.Digester()
	archive := tar.NewWriter(io.MultiWriter(zip, sum.Hash()))
	must(t, archive.WriteHeader(&tar.Header{Name: name, Size: int64(size), Mode: 0o644}))
	_, err = archive.Write(file)
	must(t, err)
	must(t, archive.Close())
	must(t, zip.Close())
	return out.Bytes(), sum.Digest()
}

func (p pusher) blob(t *testing.T, repository, mediaType string, content []byte) v1.Descriptor {
	t.Helper()
	started := p.send(t, http.MethodPost, p.registry+"/v2/"+repository+"/blobs/uploads/", "", nil, http.StatusAccepted)
	location, err := url.Parse(started)
	must(t, err)
	sum := digest.FromBytes(content)
	query := location.Query()
	query.Set("digest", sum.String())
	location.RawQuery = query.Encode()
	p.send(t, http.MethodPut, location.String(), "application/octet-stream", content, http.StatusCreated)
	return v1.Descriptor{MediaType: mediaType, Digest: sum, Size: int64(len(content))}
}

func (p pusher) manifest(t *testing.T, repository, reference, mediaType string, content []byte) digest.Digest {
	t.Helper()
	p.send(t, http.MethodPut, p.registry+"/v2/"+repository+"/manifests/"+reference, mediaType, content, http.StatusCreated)
	return digest.FromBytes(content)
}

// send sends a request and returns the Location of the response, or "".
func (p pusher) send(t *testing.T, method, to, mediaType string, content []byte, want int) string {
	t.Helper()
	request, err := http.NewRequest(method, to, bytes.NewReader(content))
	must(t, err)
	if mediaType != "" {
		request.Header.Set("Content-Type", mediaType)
	}
	answer, err := http.DefaultClient.Do(request)
	must(t, err)
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != want {
		t.Fatalf("%s %s: %s: %s", method, to, answer.Status, text)
	}
	location, err := answer.Location() // may be relative to the request
	if err != nil {
		return ""
	}
	return location.String()
}

func asJSON(t *testing.T, value any) []byte {
	t.Helper()
	data, err := json.Marshal(value)
	must(t, err)
	return data
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
