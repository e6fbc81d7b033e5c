package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxReferrerPages bounds how many pages of referrers are put together.
const maxReferrerPages = 16

// Page is a list as upstream answered it.
type Page struct {
	MediaType string
	Content   []byte
	// Next is the query for the next page, nil on the last. It holds what
	// [Registry.Tags] passes on, and nothing else of upstream's link.
	Next url.Values
	// FiltersApplied is OCI-Filters-Applied: "artifactType" or "".
	FiltersApplied string
}

// pageParameters are the query parameters of a tag list that are passed on: the
// two of distribution-spec v1.1, and Quay's, without which its second page is
// its first one again.
var pageParameters = []string{"n", "last", "next_page"}

// Tags fetches one page of a repository's tags, at most 4 MiB (distribution-spec
// v1.1, "Listing tags"). Of the query only the parameters of paging are passed
// on. The content is upstream's, with upstream's name of the repository in it.
// Errors are as for [Registry.Manifest], [NameUnknown] in place of
// [ManifestUnknown].
func (r *Registry) Tags(ctx context.Context, repository string, query url.Values) (Page, error) {
	c, err := newCall("tags", repository)
	if err != nil {
		return Page{}, err
	}
	c.path = "tags/list"
	c.what = "tag list"
	c.unknown = NameUnknown
	c.query = pick(query)
	c.header.Set("Accept", "application/json")
	ctx, cancel := r.bounded(ctx)
	defer cancel()
	a, content, err := r.list(ctx, c)
	if err != nil {
		return Page{}, err
	}
	var list struct {
		Tags []string `json:"tags"`
	}
	if json.Unmarshal(content, &list) != nil {
		return Page{}, r.fail(c, Invalid, a.StatusCode, "the answer is not a tag list")
	}
	page := Page{MediaType: "application/json", Content: content}
	if next := pick(nextLink(a.Header)); len(next) > 0 && next.Encode() != c.query.Encode() {
		page.Next = next
	}
	return page, nil
}

// pick returns the parameters of paging in a query, each once.
func pick(query url.Values) url.Values {
	picked := url.Values{}
	for _, key := range pageParameters {
		if query.Has(key) {
			picked.Set(key, query.Get(key))
		}
	}
	return picked
}

// referrersAPI fetches the index from a registry that has the API. Pages are put
// together, up to sixteen and 4 MiB. [ManifestUnknown] means that there is no
// API.
func (r *Registry) referrersAPI(ctx context.Context, repository string, d digest.Digest, artifactType string) (Page, error) {
	c, err := digestCall("referrers", repository, "referrers", d)
	if err != nil {
		return Page{}, err
	}
	c.what = "referrers of " + string(d)
	c.unknown = ManifestUnknown
	c.query = url.Values{}
	if artifactType != "" {
		c.query.Set("artifactType", artifactType)
	}
	c.header.Set("Accept", v1.MediaTypeImageIndex)
	ctx, cancel := r.bounded(ctx)
	defer cancel()

	page := Page{MediaType: v1.MediaTypeImageIndex}
	var all *index
	for pages := 1; ; pages++ {
		a, content, err := r.list(ctx, c)
		if err != nil {
			return Page{}, err
		}
		if headerType(a.Header) != v1.MediaTypeImageIndex {
			// A path that means nothing to a registry may show its front page.
			return Page{}, r.fail(c, ManifestUnknown, a.StatusCode, "upstream has no referrers API")
		}
		next := nextLink(a.Header)
		if all, err = all.add(content); err != nil {
			return Page{}, r.fail(c, Invalid, a.StatusCode, err.Error())
		}
		if pages == 1 {
			page.Content = content
			if a.Header.Get("OCI-Filters-Applied") == "artifactType" {
				page.FiltersApplied = "artifactType"
			}
		}
		if len(next) == 0 {
			if pages > 1 {
				page.Content, err = all.encode()
			}
			return page, err
		}
		if pages == maxReferrerPages || all.size > maxManifest {
			// Half a list would hide signatures.
			return Page{}, r.fail(c, Invalid, a.StatusCode, "the list has too many pages")
		}
		c.query = next
	}
}

// list fetches a page.
func (r *Registry) list(ctx context.Context, c *call) (*answer, []byte, error) {
	a, err := r.do(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	if a.StatusCode != http.StatusOK {
		return nil, nil, r.refusal(c, a)
	}
	content, err := r.readAll(ctx, c, a, maxManifest)
	return a, content, err
}

// index is an image index that grows by pages. All but the manifests is the
// first page's.
type index struct {
	fields    map[string]json.RawMessage
	manifests []json.RawMessage
	size      int // bytes of all pages
}

func (x *index) add(content []byte) (*index, error) {
	var fields map[string]json.RawMessage
	var manifests []json.RawMessage
	if json.Unmarshal(content, &fields) != nil || fields == nil || json.Unmarshal(fields["manifests"], &manifests) != nil {
		return nil, fmt.Errorf("the answer is not an image index")
	}
	if x == nil {
		x = &index{fields: fields}
	}
	x.manifests = append(x.manifests, manifests...)
	x.size += len(content)
	return x, nil
}

func (x *index) encode() ([]byte, error) {
	manifests, err := json.Marshal(x.manifests)
	if err != nil {
		return nil, err
	}
	x.fields["manifests"] = manifests
	return json.Marshal(x.fields)
}

// nextLink returns the query of the link with rel="next" (RFC 8288), nil if
// there is none. Only the query: where upstream's pages are is known.
func nextLink(h http.Header) url.Values {
	for _, line := range h.Values("Link") {
		for {
			_, rest, found := strings.Cut(line, "<")
			target, rest, closed := strings.Cut(rest, ">")
			if !found || !closed {
				break
			}
			parameters, following, _ := strings.Cut(rest, ",")
			line = following
			if !isNext(parameters) {
				continue
			}
			if u, err := url.Parse(target); err == nil {
				return u.Query()
			}
		}
	}
	return nil
}

// isNext reports whether a link's parameters, `; rel="next"`, say next.
func isNext(parameters string) bool {
	for p := range strings.SplitSeq(parameters, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(strings.TrimSpace(key), "rel") && strings.EqualFold(strings.Trim(value, ` "`), "next") {
			return true
		}
	}
	return false
}
