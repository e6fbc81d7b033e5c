package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/internal/origin"
)

// Page is one page of a list.
type Page struct {
	MediaType string

	// Content is the index as the registry sent it or, for tags, the JSON array of
	// their names.
	Content []byte

	// Next is the query for the next page, or nil on the last one. It contains only
	// n, last and next_page, or CursorParameter, which other code must neither read
	// nor let clients choose.
	Next url.Values

	// Cut tells why Next is nil although the registry has named a next page, or is
	// empty. It contains no text from the registry.
	Cut string

	// FiltersApplied is the value of OCI-Filters-Applied: "artifactType" or "".
	FiltersApplied string
}

// CursorParameter is the query parameter of [Page.Next] that contains the query of a
// registry that selects pages by parameters of its own. The client passes it on to
// the registry unchanged. It may contain what clients should not see.
const CursorParameter = "cursor"

// maxCursor is the longest query in [Page.Next], in bytes. With AddressParameter it has
// at most 1 KiB.
const maxCursor = 1000

// maxTagList is the maximum size of a page of tags in bytes. Some registries send
// all tags of a repository at once.
const maxTagList = 32 << 20

// pageParameters lists the query parameters of a tag list that clients may choose:
// those of distribution-spec v1.1 and Quay's next_page, without which Quay repeats
// its first page.
var pageParameters = []string{"n", "last", "next_page"}

// Tags fetches one page of a repository's tags, at most 32 MiB (distribution-spec
// v1.1, "Listing tags"). Of the query it passes on the parameters that select a page,
// or that of [Page.Next]. If the registry refuses the number of tags n, it is asked
// once more for fewer.
//
// Errors are those of [Registry.Manifest], with [NameUnknown] in place of
// [ManifestUnknown], and [Refused].
func (r *Registry) Tags(ctx context.Context, repository string, query url.Values) (Page, error) {
	c, err := newCall(repository, "tags/list", "tag list")
	if err != nil {
		return Page{}, err
	}
	c.notFound = NameUnknown
	if c.rawQuery = query.Get(CursorParameter); c.rawQuery == "" {
		c.query = selectPage(query)
	}
	c.header.Set("Accept", "application/json")
	ctx, cancel := r.withTimeout(ctx)
	defer cancel()
	resp, err := r.get(ctx, c)
	if n, ok := fewer(err, c.query.Get("n")); ok {
		c.query.Set("n", n)
		resp, err = r.get(ctx, c)
	}
	if err != nil {
		return Page{}, refusal(err)
	}
	page := Page{MediaType: "application/json"}
	if page.Content, err = r.readList(ctx, c, resp, tagArray); err != nil {
		return Page{}, err
	}
	page.Next, page.Cut = nextPage(resp, r.url(c))
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

// fewer returns a number of tags to ask for if a registry may have refused n because
// it is too large. Most registries accept 100.
func fewer(err error, n string) (string, bool) {
	var e *Error
	if !errors.As(err, &e) || e.Kind == RateLimited || e.Kind == Denied {
		return "", false
	}
	switch e.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
	default:
		return "", false
	}
	number, invalid := strconv.ParseUint(n, 10, 64)
	if invalid != nil || number < 2 {
		return "", false
	}
	return strconv.FormatUint(min(100, max(1, number/10)), 10), true
}

// refusedCodes are the error codes of a refused request for tags that are passed on.
// Others are not specific enough, or mean something else to clients.
var refusedCodes = []string{"PAGINATION_NUMBER_INVALID", "NAME_INVALID", "TAG_INVALID", "DIGEST_INVALID", "UNSUPPORTED"}

// refusal changes the kind of an error to [Refused] if the response was 400 or 404
// with one of the refusedCodes.
func refusal(err error) error {
	var e *Error
	if errors.As(err, &e) && (e.Status == http.StatusBadRequest || e.Status == http.StatusNotFound) && slices.Contains(refusedCodes, e.Code) {
		e.Kind = Refused
	}
	return err
}

// nextPage returns the query of the page after that of a response to a request for
// address, or why there is none although the response has a link to it. Of a link to
// another address, which some gateways send, only the parameters of the specification
// are used. A link to the same address may have any.
func nextPage(resp *response, address *url.URL) (next url.Values, cut string) {
	link := header.NextLink(resp.Header, address)
	if link == nil || link.RawQuery == address.RawQuery {
		return nil, "" // the same page again, on which some registries end
	}
	query, err := url.ParseQuery(link.RawQuery)
	selected := selectPage(query)
	ours := !resp.foreign && pointsTo(link, address)
	switch own := err != nil || len(selected) < len(query); {
	case own && ours:
		next := url.Values{CursorParameter: {link.RawQuery}}
		if len(next.Encode()) > maxCursor || !header.IsVisible(link.RawQuery) {
			return nil, "the link to the next page is too long or malformed"
		}
		return next, ""
	case selected.Get("last") != "" || selected.Get("next_page") != "":
		if len(selected.Encode()) > maxCursor {
			return nil, "the link to the next page is too long or malformed"
		}
		if selected.Encode() == address.RawQuery {
			return nil, ""
		}
		return selected, ""
	case ours:
		return nil, "the link to the next page does not tell which"
	}
	return nil, "the link to the next page is one to another address"
}

// pointsTo reports whether a link points to the host and path of an address. The
// scheme may differ, because registries behind a proxy do not know theirs.
func pointsTo(link, address *url.URL) bool {
	sameHost := link.Host == address.Host || strings.EqualFold(link.Hostname(), address.Hostname()) && origin.Port(link) == origin.Port(address)
	return sameHost && link.EscapedPath() == address.EscapedPath()
}
