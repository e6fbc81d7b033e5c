package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
)

// Media types that have no constant in image-spec.
const (
	dockerManifest      = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList  = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	ociArtifact         = "application/vnd.oci.artifact.manifest.v1+json" // in no released specification, but pushed
)

// manifestTypes is all that we ask for, whatever the client would take: what is
// cached must be upstream's own choice, and an index stays an index. Schema 1 is
// not among them.
var manifestTypes = []string{v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, dockerManifestList, dockerManifest, ociArtifact}

var acceptManifests = strings.Join(manifestTypes, ", ")

// Descriptor names some content (image-spec v1.1, "Content Descriptors").
type Descriptor struct {
	Digest    digest.Digest
	MediaType string // without parameters
	Size      int64  // bytes
}

// Manifest is a manifest or index, byte for byte as upstream has it.
type Manifest struct {
	Descriptor
	Content []byte // nil if only the descriptor was asked for
}

// ResolveManifest asks what a tag or digest stands for, with a HEAD (distribution-
// spec v1.1, "Checking if content exists in the registry"), which Docker Hub does
// not count. If that is refused, or answered without digest, length or type, a GET
// decides; then the result has the content too, and its descriptor is computed.
// What HEAD alone says of a digest is upstream's claim. Errors are as for
// [Registry.Manifest].
func (r *Registry) ResolveManifest(ctx context.Context, repository, ref string) (Manifest, error) {
	c, wanted, err := manifestCall(repository, ref)
	if err != nil {
		return Manifest{}, err
	}
	ctx, cancel := r.bounded(ctx)
	defer cancel()
	heads := r.heads
	if wanted == "" {
		heads = r.tagHeads
	}
	head := c.with(http.MethodHead)
	a, err := r.do(ctx, head)
	if errors.Is(err, ErrPlainHTTP) && c.verified {
		return r.manifest(ctx, c, wanted)
	}
	if err != nil {
		return Manifest{}, err
	}
	ref = repository + ":" + ref
	if a.StatusCode == http.StatusOK {
		_ = a.Body.Close()
		if d, ok := headDescriptor(a, wanted); ok {
			heads.saidYes()
			return Manifest{Descriptor: d}, nil
		}
	} else if err := r.refuse(heads, head, ref, a); err != nil {
		return Manifest{}, err
	}
	m, err := r.manifest(ctx, c, wanted)
	heads.compare(ref, a, err, r.now())
	return m, err
}

// headDescriptor reads a descriptor from headers. It reports false if they are
// incomplete or odd in any way: the GET that follows finds out, or says what is
// wrong.
func headDescriptor(a *answer, wanted digest.Digest) (Descriptor, bool) {
	d, err := reference.ParseDigest(a.Header.Get("Docker-Content-Digest"))
	mediaType := headerType(a.Header)
	ok := err == nil && (wanted == "" || d == wanted) && isManifestType(mediaType) &&
		a.ContentLength > 0 && a.ContentLength <= maxManifest && !encoded(a.Response)
	return Descriptor{Digest: d, MediaType: mediaType, Size: a.ContentLength}, ok
}

// Manifest fetches a manifest or index of at most 4 MiB by tag or digest
// (distribution-spec v1.1, "Pulling manifests"). Content asked for by digest has
// that digest; content asked for by tag gets its sha256, which must be what
// Docker-Content-Digest says if that is a sha256. The media type is the header's,
// or the content's own if the header names none of a manifest. An error is an
// [*Error] (most often [ManifestUnknown], [NameUnknown], [Denied] or
// [RateLimited]; [Invalid] for a schema 1 manifest), the context's error, or
// neither for a repository or reference outside the grammar.
func (r *Registry) Manifest(ctx context.Context, repository, ref string) (Manifest, error) {
	c, wanted, err := manifestCall(repository, ref)
	if err != nil {
		return Manifest{}, err
	}
	ctx, cancel := r.bounded(ctx)
	defer cancel()
	return r.manifest(ctx, c, wanted)
}

// manifestCall returns the call, and the digest if the reference is one.
func manifestCall(repository, ref string) (*call, digest.Digest, error) {
	c, err := newCall("manifest", repository)
	if err != nil {
		return nil, "", err
	}
	var wanted digest.Digest
	if !reference.ValidTag(ref) {
		if wanted, err = reference.ParseDigest(ref); err != nil {
			return nil, "", errors.New("reference is neither a tag nor a digest")
		}
	}
	c.path = "manifests/" + ref
	c.what = "manifest " + ref
	c.unknown = ManifestUnknown
	c.verified = wanted != ""
	c.header.Set("Accept", acceptManifests)
	return c, wanted, nil
}

func (r *Registry) manifest(ctx context.Context, c *call, wanted digest.Digest) (Manifest, error) {
	a, err := r.do(ctx, c)
	if err != nil {
		return Manifest{}, err
	}
	if a.StatusCode != http.StatusOK {
		return Manifest{}, r.refusal(c, a)
	}
	content, err := r.readAll(ctx, c, a, maxManifest)
	if err != nil {
		return Manifest{}, err
	}
	mediaType := headerType(a.Header)
	if !isManifestType(mediaType) && !isSchema1(mediaType) {
		mediaType = contentType(content)
	}
	switch {
	case isSchema1(mediaType):
		return Manifest{}, r.fail(c, Invalid, a.StatusCode, "a schema 1 manifest, which clients no longer take; push the image again with a current tool")
	case mediaType == "":
		return Manifest{}, r.fail(c, Invalid, a.StatusCode, "the answer is not a manifest")
	}
	if wanted != "" {
		if wanted.Algorithm().FromBytes(content) != wanted {
			return Manifest{}, r.fail(c, Invalid, a.StatusCode, "the content does not have this digest")
		}
	} else {
		wanted = digest.FromBytes(content)
		said, err := reference.ParseDigest(a.Header.Get("Docker-Content-Digest"))
		if err == nil && said.Algorithm().FromBytes(content) != said {
			return Manifest{}, r.fail(c, Invalid, a.StatusCode, "the content does not have the digest that upstream gave")
		}
	}
	return Manifest{Descriptor{Digest: wanted, MediaType: mediaType, Size: int64(len(content))}, content}, nil
}

// headerType returns the media type without parameters, "" for none.
func headerType(h http.Header) string {
	mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return mediaType
}

func isManifestType(mediaType string) bool {
	for _, t := range manifestTypes {
		if t == mediaType {
			return true
		}
	}
	return false
}

func isSchema1(mediaType string) bool {
	return mediaType == dockerSchema1 || mediaType == dockerSchema1Signed
}

// contentType guesses the media type of a manifest from what it says of itself
// and from its shape; "" if it is none. OCI content need not have a mediaType.
func contentType(content []byte) string {
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
	}
	if json.Unmarshal(content, &m) != nil {
		return ""
	}
	isArray := func(raw json.RawMessage) bool { return bytes.HasPrefix(raw, []byte("[")) }
	switch {
	case isManifestType(m.MediaType):
		return m.MediaType
	case m.SchemaVersion == 1:
		return dockerSchema1
	case m.SchemaVersion != 2:
		return ""
	case isArray(m.Manifests) && m.Config == nil && m.Layers == nil:
		return v1.MediaTypeImageIndex
	case isArray(m.Layers) && m.Config != nil && m.Manifests == nil:
		return v1.MediaTypeImageManifest
	}
	return ""
}
