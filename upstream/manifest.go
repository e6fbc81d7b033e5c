package upstream

import (
	"context"
	"errors"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/mediatype"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

// MaxManifest is the maximum size of a manifest or list in bytes. Distribution-spec
// v1.1 asks registries to accept manifests of at least this size, and clients
// reject larger ones.
const MaxManifest = 4 << 20

// Descriptor describes content (image-spec v1.1, "Content Descriptors").
type Descriptor struct {
	Digest    digest.Digest
	MediaType string // without parameters
	Size      int64  // in bytes
}

// Manifest is a manifest or index, byte for byte as the registry sent it.
type Manifest struct {
	Descriptor
	Content []byte // nil if only the descriptor is known
}

// ResolveManifest returns the descriptor of the manifest to which a tag or digest
// refers (distribution-spec v1.1, "Checking if content exists in the registry").
// It sends a HEAD, which does not count towards Docker Hub's rate limit. If HEAD
// is rejected, or its response lacks a digest, length or type, a GET decides; the
// result then has the content and a computed descriptor. A registry that rejects
// each HEAD is asked by GET alone for an hour. A descriptor from HEAD is only the
// registry's claim. Errors are those of [Registry.Manifest].
func (r *Registry) ResolveManifest(ctx context.Context, repository, ref string) (Manifest, error) {
	return r.resolveManifest(ctx, repository, ref, 0)
}

// ResolveTag is [Registry.ResolveManifest] for a tag and a client that accepts only
// some types of manifests. Many registries ignore what a client accepts, so the
// manifest may be of another type.
func (r *Registry) ResolveTag(ctx context.Context, repository, tag string, accept mediatype.Accept) (Manifest, error) {
	return r.resolveManifest(ctx, repository, tag, accept)
}

// HeadTag is [Registry.ResolveTag] by HEAD alone, for a budget that is scarce: where a
// GET would have to decide, the cause of the error is [ratelimit.ErrNoPull].
func (r *Registry) HeadTag(ctx context.Context, repository, tag string, accept mediatype.Accept) (Manifest, error) {
	c, _, err := newManifestCall(repository, tag, accept)
	if err != nil {
		return Manifest{}, err
	}
	ctx, cancel := r.withTimeout(ctx)
	defer cancel()
	c = c.withMethod(http.MethodHead)
	saved := r.newError(c, RateLimited, 0, "HEAD does not tell, and the pulls that remain are not used for that")
	saved.cause = ratelimit.ErrNoPull
	if r.tagHeads.useless(r.now()) {
		return Manifest{}, asUnsent(saved)
	}
	head, err := r.do(ctx, c)
	if err != nil {
		return Manifest{}, err
	}
	if head.StatusCode != http.StatusOK {
		kind, conclusive := r.tagHeads.conclusive(headRef(repository, tag, accept), head, r.now())
		if !conclusive {
			discard(head.Body)
			return Manifest{}, saved
		}
		return Manifest{}, r.conclusiveError(c, head, kind)
	}
	_ = head.Body.Close()
	d, ok := headDescriptor(head, "")
	if !ok {
		return Manifest{}, saved
	}
	r.tagHeads.recordSuccess()
	return Manifest{Descriptor: d}, nil
}

// headRef returns the name of a reference in a headHistory.
func headRef(repository, ref string, accept mediatype.Accept) string {
	return repository + ":" + ref + "@" + accept.String()
}

func (r *Registry) resolveManifest(ctx context.Context, repository, ref string, accept mediatype.Accept) (Manifest, error) {
	c, wanted, err := newManifestCall(repository, ref, accept)
	if err != nil {
		return Manifest{}, err
	}
	ctx, cancel := r.withTimeout(ctx)
	defer cancel()
	history := r.manifestHeads
	if wanted == "" {
		history = r.tagHeads
	}
	if history.useless(r.now()) {
		return r.manifest(ctx, c, wanted)
	}
	headCall := c.withMethod(http.MethodHead)
	head, err := r.do(ctx, headCall)
	if errors.Is(err, ErrPlainHTTP) && c.verified {
		return r.manifest(ctx, c, wanted)
	}
	if err != nil {
		return Manifest{}, err
	}
	ref = headRef(repository, ref, accept)
	if head.StatusCode == http.StatusOK {
		_ = head.Body.Close()
		if d, ok := headDescriptor(head, wanted); ok {
			history.recordSuccess()
			return Manifest{Descriptor: d}, nil
		}
	} else if err := r.headError(history, headCall, ref, head); err != nil {
		return Manifest{}, err
	}
	m, err := r.manifest(ctx, c, wanted)
	history.recordGet(ref, head, err, r.now())
	return m, err
}

// headDescriptor returns the descriptor in the headers of a HEAD response. It
// reports false if they are incomplete, or not as wanted.
func headDescriptor(resp *response, wanted digest.Digest) (Descriptor, bool) {
	d, err := reference.ParseDigest(resp.Header.Get("Docker-Content-Digest"))
	t := header.MediaType(resp.Header)
	ok := err == nil && (wanted == "" || d == wanted) && mediatype.NamesManifest(t) && !mediatype.IsSchema1(t) &&
		resp.ContentLength > 0 && resp.ContentLength <= MaxManifest && !isEncoded(resp.Response)
	return Descriptor{Digest: d, MediaType: t, Size: resp.ContentLength}, ok
}

// Manifest fetches a manifest or index of at most 4 MiB by tag or digest
// (distribution-spec v1.1, "Pulling manifests"). Content that is requested by
// digest is checked against it. Content that is requested by tag gets its sha256
// as digest, and must match Docker-Content-Digest if the response has a valid
// one. [mediatype.OfManifest] determines the media type.
//
// The error is an [*Error], most often of kind [ManifestUnknown], [NameUnknown],
// [Denied] or [RateLimited], [Unsupported] for a schema 1 manifest and [Invalid] for
// content that [mediatype.OfManifest] rejects; or the context's error. An invalid repository
// or reference is neither.
func (r *Registry) Manifest(ctx context.Context, repository, ref string) (Manifest, error) {
	c, wanted, err := newManifestCall(repository, ref, 0)
	if err != nil {
		return Manifest{}, err
	}
	ctx, cancel := r.withTimeout(ctx)
	defer cancel()
	return r.manifest(ctx, c, wanted)
}

// RefetchTag fetches the manifest that a tag stands for from a registry that has
// named its digest in response to HEAD, and then has not served that digest: the tag
// may have been pushed again meanwhile, or the registry may serve manifests by tag
// only. The arguments are those of [Registry.ResolveTag], and errors those of
// [Registry.Manifest]. The kind is [Invalid] if GET does not
// find the tag, and HEAD still does.
func (r *Registry) RefetchTag(ctx context.Context, repository, tag string, accept mediatype.Accept) (Manifest, error) {
	c, wanted, err := newManifestCall(repository, tag, accept)
	if err != nil {
		return Manifest{}, err
	}
	ctx, cancel := r.withTimeout(ctx)
	defer cancel()
	m, err := r.manifest(ctx, c, wanted)
	if k := KindOf(err); k != ManifestUnknown && k != NameUnknown {
		return m, err
	}
	head, failed := r.do(ctx, c.withMethod(http.MethodHead))
	if failed != nil {
		return Manifest{}, err
	}
	_ = head.Body.Close()
	if _, named := headDescriptor(head, wanted); named && head.StatusCode == http.StatusOK {
		return Manifest{}, r.newError(c, Invalid, head.StatusCode, "the registry contradicts itself: HEAD names the tag, and GET does not find it")
	}
	return Manifest{}, err
}

// newManifestCall returns the call for a reference, and the reference's digest, or
// "" if it is a tag.
func newManifestCall(repository, ref string, accept mediatype.Accept) (*call, digest.Digest, error) {
	var wanted digest.Digest
	if !reference.ValidTag(ref) {
		var err error
		if wanted, err = reference.ParseDigest(ref); err != nil {
			return nil, "", errors.New("invalid reference: neither a tag nor a digest")
		}
	}
	c, err := newCall(repository, "manifests/"+ref, "manifest "+ref)
	if err != nil {
		return nil, "", err
	}
	c.notFound = ManifestUnknown
	c.verified = wanted != ""
	c.header.Set("Accept", accept.Header())
	return c, wanted, nil
}

// manifest sends a GET for a manifest and checks the response.
func (r *Registry) manifest(ctx context.Context, c *call, wanted digest.Digest) (Manifest, error) {
	resp, err := r.pull(ctx, c)
	if err != nil {
		return Manifest{}, err
	}
	content, err := r.readAll(ctx, c, resp, MaxManifest)
	if err != nil {
		return Manifest{}, err
	}
	t, err := mediatype.OfManifest(header.MediaType(resp.Header), content)
	if err != nil {
		kind := Invalid
		if err == mediatype.ErrSchema1 {
			kind = Unsupported
		}
		return Manifest{}, r.newError(c, kind, resp.StatusCode, err.Error())
	}
	if wanted != "" {
		if wanted.Algorithm().FromBytes(content) != wanted {
			return Manifest{}, r.newError(c, Invalid, resp.StatusCode, "the content does not match the requested digest")
		}
	} else {
		wanted = digest.FromBytes(content)
		sent, err := reference.ParseDigest(resp.Header.Get("Docker-Content-Digest"))
		if err == nil && sent.Algorithm().FromBytes(content) != sent {
			return Manifest{}, r.newError(c, Invalid, resp.StatusCode, "the content does not match Docker-Content-Digest")
		}
	}
	return Manifest{Descriptor{Digest: wanted, MediaType: t, Size: int64(len(content))}, content}, nil
}
