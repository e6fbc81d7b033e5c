package upstream

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// Page is one page of a list, as the registry sent it.
type Page struct {
	MediaType string
	Content   []byte

	// Next is the query for the next page, or nil on the last one. It contains
	// only the parameters that [Registry.Tags] passes on.
	Next url.Values

	// FiltersApplied is the value of OCI-Filters-Applied: "artifactType" or "".
	FiltersApplied string
}

// pageParameters lists the query parameters of a tag list that are passed on: those
// of distribution-spec v1.1 and Quay's next_page, without which Quay repeats its
// first page.
var pageParameters = []string{"n", "last", "next_page"}

// Tags fetches one page of a repository's tags, at most 4 MiB (distribution-spec
// v1.1, "Listing tags"). It passes on only the parameters of query that select a
// page. The content names the repository as the registry does. Errors are those of
// [Registry.Manifest], with [NameUnknown] in place of [ManifestUnknown].
func (r *Registry) Tags(ctx context.Context, repository string, query url.Values) (Page, error) {
	c, err := newCall(repository, "tags/list", "tag list")
	if err != nil {
		return Page{}, err
	}
	c.notFound = NameUnknown
	c.query = selectPage(query)
	c.header.Set("Accept", "application/json")
	ctx, cancel := r.withTimeout(ctx)
	defer cancel()
	resp, content, err := r.page(ctx, c)
	if err != nil {
		return Page{}, err
	}
	var list struct {
		Tags []string `json:"tags"`
	}
	if json.Unmarshal(content, &list) != nil {
		return Page{}, r.newError(c, Invalid, resp.StatusCode, "the response is not a tag list")
	}
	page := Page{MediaType: "application/json", Content: content}
	if next := selectPage(nextLink(resp.Header)); len(next) > 0 && next.Encode() != c.query.Encode() {
		page.Next = next
	}
	return page, nil
}

// selectPage returns the pageParameters of a query, each with its first value.
func selectPage(query url.Values) url.Values {
	selected := url.Values{}
	for _, key := range pageParameters {
		if query.Has(key) {
			selected.Set(key, query.Get(key))
		}
	}
	return selected
}

// page fetches one page of a list, at most 4 MiB.
func (r *Registry) page(ctx context.Context, c *call) (*response, []byte, error) {
	resp, err := r.do(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, r.statusError(c, resp)
	}
	content, err := r.readAll(ctx, c, resp, maxManifest)
	return resp, content, err
}

// nextLink returns the query of the link with rel="next" (RFC 8288), or nil. The
// rest of the link is not used, because the address of a list is known.
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

// isNext reports whether the parameters of a link, such as `; rel="next"`, contain
// the relation next.
func isNext(parameters string) bool {
	for p := range strings.SplitSeq(parameters, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(strings.TrimSpace(key), "rel") && strings.EqualFold(strings.Trim(value, ` "`), "next") {
			return true
		}
	}
	return false
}
