package registrytest

import (
	"encoding/json"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image describes an image that PutImage has stored.
type Image struct {
	Manifest digest.Digest
	Config   digest.Digest
	Layers   []digest.Digest
}

// change calls f with a repository, which it creates if necessary.
func (r *Registry) change(repo string, f func(*repository)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.repos[repo] == nil {
		r.repos[repo] = &repository{
			blobs:     map[digest.Digest][]byte{},
			manifests: map[digest.Digest]manifest{},
			tags:      map[string]digest.Digest{},
			offers:    map[string]digest.Digest{},
		}
	}
	f(r.repos[repo])
}

// PutBlob stores a blob and returns its digest. The content must not be modified
// afterwards.
func (r *Registry) PutBlob(repo string, content []byte) digest.Digest {
	d := digest.FromBytes(content)
	r.change(repo, func(x *repository) { x.blobs[d] = content })
	return d
}

// PutManifest stores a manifest with any number of tags and returns its digest.
func (r *Registry) PutManifest(repo, mediaType string, content []byte, tags ...string) digest.Digest {
	d := digest.FromBytes(content)
	r.PutManifestAs(repo, d, mediaType, content, tags...)
	return d
}

// PutManifestAs stores a manifest under a digest of any algorithm, which may be
// wrong.
func (r *Registry) PutManifestAs(repo string, d digest.Digest, mediaType string, content []byte, tags ...string) {
	r.change(repo, func(x *repository) {
		x.manifests[d] = manifest{mediaType, content}
		for _, tag := range tags {
			x.tags[tag] = d
		}
	})
}

// PutImage stores an OCI image with the given layers, which may have any content,
// and tags it unless the tag is empty. Images of one repository with equal layers
// are the same image.
func (r *Registry) PutImage(repo, tag string, layers ...[]byte) Image {
	var image Image
	config := v1.Image{Platform: v1.Platform{Architecture: "amd64", OS: "linux"}, RootFS: v1.RootFS{Type: "layers"}}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, layer := range layers {
		d := r.PutBlob(repo, layer)
		image.Layers = append(image.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, d)
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: d, Size: int64(len(layer))})
	}
	content := encode(config)
	image.Config = r.PutBlob(repo, content)
	m.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: image.Config, Size: int64(len(content))}
	image.Manifest = r.PutManifest(repo, v1.MediaTypeImageManifest, encode(m), tagsOf(tag)...)
	return image
}

// PutIndex stores an OCI index of images of the repository and tags it unless the
// tag is empty. The images get the architectures amd64, arm64, arm, s390x, ppc64le
// and riscv64 in this order.
func (r *Registry) PutIndex(repo, tag string, images ...Image) digest.Digest {
	architectures := []string{"amd64", "arm64", "arm", "s390x", "ppc64le", "riscv64"}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	r.change(repo, func(x *repository) {
		for i, image := range images {
			m := x.manifests[image.Manifest]
			index.Manifests = append(index.Manifests, v1.Descriptor{
				MediaType: m.mediaType, Digest: image.Manifest, Size: int64(len(m.content)),
				Platform: &v1.Platform{OS: "linux", Architecture: architectures[i%len(architectures)]},
			})
		}
	})
	return r.PutManifest(repo, v1.MediaTypeImageIndex, encode(index), tagsOf(tag)...)
}

// PutReferrer stores an artifact that refers to the manifest subject and has one
// blob with the given content. It returns the artifact's digest.
func (r *Registry) PutReferrer(repo string, subject digest.Digest, artifactType string, content []byte) digest.Digest {
	layer := r.PutBlob(repo, content)
	empty := r.PutBlob(repo, v1.DescriptorEmptyJSON.Data)
	config := v1.Descriptor{MediaType: v1.MediaTypeEmptyJSON, Digest: empty, Size: v1.DescriptorEmptyJSON.Size}
	var about v1.Descriptor
	r.change(repo, func(x *repository) {
		m := x.manifests[subject]
		about = v1.Descriptor{MediaType: m.mediaType, Digest: subject, Size: int64(len(m.content))}
	})
	return r.PutManifest(repo, v1.MediaTypeImageManifest, encode(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		ArtifactType: artifactType, Config: config, Subject: &about,
		Layers: []v1.Descriptor{{MediaType: "application/octet-stream", Digest: layer, Size: int64(len(content))}},
	}))
}

// DeleteRepository deletes a repository.
func (r *Registry) DeleteRepository(repo string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.repos, repo)
}

// RawManifest returns the content of a manifest, or nil if it does not exist. It
// does not count as a request.
func (r *Registry) RawManifest(repo string, d digest.Digest) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x := r.repos[repo]; x != nil {
		return x.manifests[d].content
	}
	return nil
}

// RawBlob returns the content of a blob, or nil if it does not exist. It does not
// count as a request.
func (r *Registry) RawBlob(repo string, d digest.Digest) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x := r.repos[repo]; x != nil {
		return x.blobs[d]
	}
	return nil
}

// tagsOf returns a list with the tag, or nil if it is empty.
func tagsOf(tag string) []string {
	if tag == "" {
		return nil
	}
	return []string{tag}
}

// encode returns v as JSON.
func encode(v any) []byte {
	content, err := json.Marshal(v)
	if err != nil {
		panic(err) // the types of image-spec always marshal
	}
	return content
}

// DeleteManifest deletes a manifest. Tags that stand for it remain, and are not found.
func (r *Registry) DeleteManifest(repo string, d digest.Digest) {
	r.change(repo, func(x *repository) { delete(x.manifests, d) })
}

// Offer lets a tag stand for the manifest d too, for requests that accept its media
// type and not that of the tag's own manifest.
func (r *Registry) Offer(repo, tag string, d digest.Digest) {
	r.change(repo, func(x *repository) { x.offers[tag] = d })
}

// find returns the manifest for a tag or digest, and its digest.
func (x *repository) find(reference, accept string) (digest.Digest, manifest, bool) {
	d, tagged := x.tags[reference]
	if !tagged {
		d = digest.Digest(reference)
	}
	m, found := x.manifests[d]
	accepts := func(m manifest) bool { return strings.Contains(accept, m.mediaType) }
	if other, offered := x.manifests[x.offers[reference]]; offered && !accepts(m) && accepts(other) {
		return x.offers[reference], other, true
	}
	return d, m, found
}
