package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
)

// maxReferrerPages is the number of pages of referrers that are merged.
const maxReferrerPages = 16

// emptyReferrers is the index for a manifest without referrers.
const emptyReferrers = `{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageIndex + `","manifests":[]}`

// Referrers fetches the index of the manifests that refer to digest d
// (distribution-spec v1.1, "Listing Referrers"). If artifactType is not empty, the
// registry may filter by it; FiltersApplied tells whether it did. Pages are merged,
// so Next is always nil.
//
// If the registry has no referrers API, the referrers tag is used ("Referrers Tag
// Schema"), so that clients find signatures behind any registry. Without that tag
// the index is empty. Errors are those of [Registry.Manifest].
func (r *Registry) Referrers(ctx context.Context, repository string, d digest.Digest, artifactType string) (Page, error) {
	page, err := r.referrers(ctx, repository, d, artifactType)
	if !errors.Is(err, errNoReferrers) {
		return page, err
	}
	m, err := r.Manifest(ctx, repository, referrersTag(d))
	switch {
	case err == nil && m.MediaType == v1.MediaTypeImageIndex && d.Algorithm().FromBytes(m.Content) != d:
		return Page{MediaType: m.MediaType, Content: m.Content}, nil
	case err == nil, KindOf(err) == ManifestUnknown:
		// Registries that read such a tag as the digest answer with the subject,
		// whose platforms are not its referrers.
		return Page{MediaType: v1.MediaTypeImageIndex, Content: []byte(emptyReferrers)}, nil
	}
	return Page{}, err
}

// referrersTag returns the tag of the index of what refers to d. The specification
// limits both parts of the digest, since a tag has at most 128 characters.
func referrersTag(d digest.Digest) string {
	algorithm, encoded := d.Algorithm().String(), d.Encoded()
	return algorithm[:min(len(algorithm), 32)] + "-" + encoded[:min(len(encoded), 64)]
}

// errNoReferrers is the cause of the error of a registry without a referrers API.
var errNoReferrers = errors.New("the registry has no referrers API")

// referrersError returns the error of a page of the referrers API. If it is the first
// one, and the status means that the registry has no such API, the cause becomes
// errNoReferrers. The specification demands 404 then. Registries that do not know the
// path also answer that the request is invalid, or that the method, the media type
// or the function does not exist.
func referrersError(err error, pages int) error {
	var e *Error
	if !errors.As(err, &e) || e.Kind == RateLimited {
		return err
	}
	switch e.Status {
	case http.StatusNotFound, http.StatusGone, http.StatusBadRequest, http.StatusMethodNotAllowed,
		http.StatusNotAcceptable, http.StatusNotImplemented:
		if pages == 1 {
			e.cause = errNoReferrers
		} else {
			e.Kind = Invalid // the registry has named this page itself
		}
	}
	return err
}

// referrers fetches the index from the referrers API and merges its pages, at most
// maxReferrerPages and 4 MiB. The cause of the error is errNoReferrers if the
// registry has no such API. A failure of a later page has another cause, since what
// the tag names would hide what the API has.
func (r *Registry) referrers(ctx context.Context, repository string, d digest.Digest, artifactType string) (Page, error) {
	c, err := newDigestCall("referrers of", repository, "referrers", d)
	if err != nil {
		return Page{}, err
	}
	c.notFound = ManifestUnknown
	c.query = url.Values{}
	if artifactType != "" {
		c.query.Set("artifactType", artifactType)
	}
	c.header.Set("Accept", v1.MediaTypeImageIndex)
	ctx, cancel := r.withTimeout(ctx)
	defer cancel()

	page := Page{MediaType: v1.MediaTypeImageIndex}
	var merged indexMerger
	for pages := 1; ; pages++ {
		resp, err := r.get(ctx, c)
		if err != nil {
			return Page{}, referrersError(err, pages)
		}
		content, err := r.readAll(ctx, c, resp, MaxManifest)
		if err != nil {
			return Page{}, err
		}
		if header.MediaType(resp.Header) != v1.MediaTypeImageIndex {
			e := r.newError(c, Invalid, resp.StatusCode, "the response is not an image index")
			if pages == 1 {
				e.cause = errNoReferrers
			}
			return Page{}, e
		}
		if err = merged.add(content); err != nil {
			return Page{}, r.newError(c, Invalid, resp.StatusCode, err.Error())
		}
		if pages == 1 {
			page.Content = content
			if resp.Header.Get("OCI-Filters-Applied") == "artifactType" {
				page.FiltersApplied = "artifactType"
			}
		}
		next := header.NextLink(resp.Header, r.url(c))
		if next == nil {
			if pages > 1 {
				page.Content, err = merged.encode()
			}
			return page, err
		}
		// A truncated list would hide signatures.
		if next.RawQuery == "" || !header.IsVisible(next.RawQuery) {
			return Page{}, r.newError(c, Invalid, resp.StatusCode, "the link to the next page does not tell which")
		}
		if pages == maxReferrerPages || merged.size > MaxManifest {
			return Page{}, r.newError(c, Invalid, resp.StatusCode, "the list of referrers is too long")
		}
		c.rawQuery = next.RawQuery
	}
}

// indexMerger merges the pages of an image index. It keeps all fields but the
// manifests from the first page. The zero value is ready for use.
type indexMerger struct {
	fields    map[string]json.RawMessage
	manifests []json.RawMessage
	size      int // bytes of all pages
}

// add appends the manifests of a page.
func (m *indexMerger) add(content []byte) error {
	var fields map[string]json.RawMessage
	var manifests []json.RawMessage
	if json.Unmarshal(content, &fields) != nil || fields == nil || json.Unmarshal(fields["manifests"], &manifests) != nil {
		return errors.New("the response is not an image index")
	}
	if m.fields == nil {
		m.fields = fields
	}
	m.manifests = append(m.manifests, manifests...)
	m.size += len(content)
	return nil
}

// encode returns the merged index.
func (m *indexMerger) encode() ([]byte, error) {
	manifests, err := json.Marshal(m.manifests)
	if err != nil {
		return nil, err
	}
	m.fields["manifests"] = manifests
	return json.Marshal(m.fields)
}
