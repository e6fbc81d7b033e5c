package upstream

import (
	"context"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// noReferrers is the index of a manifest that nothing refers to.
const noReferrers = `{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageIndex + `","manifests":[]}`

// Referrers fetches the index of what refers to a manifest (distribution-spec
// v1.1, "Listing Referrers"), filtered by artifact type if that is not empty and
// upstream can: FiltersApplied tells. Next is always nil. Where upstream has no
// referrers API, the tag that stands in for it ("Referrers Tag Schema") is
// asked, so that clients find signatures behind any registry; without such a
// tag the index is empty. Errors are as for [Registry.Manifest].
func (r *Registry) Referrers(ctx context.Context, repository string, d digest.Digest, artifactType string) (Page, error) {
	page, err := r.referrersAPI(ctx, repository, d, artifactType)
	if KindOf(err) != ManifestUnknown {
		return page, err
	}
	m, err := r.Manifest(ctx, repository, d.Algorithm().String()+"-"+d.Encoded())
	switch {
	case err == nil && m.MediaType == v1.MediaTypeImageIndex:
		return Page{MediaType: m.MediaType, Content: m.Content}, nil
	case err == nil, KindOf(err) == ManifestUnknown:
		return Page{MediaType: v1.MediaTypeImageIndex, Content: []byte(noReferrers)}, nil
	}
	return Page{}, err
}
