package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/freshness"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// The parameters of a list of tags that are sent upstream (distribution-spec v1.1,
// "Listing tags"; next_page is Quay's), and the proxy's own, which stands for the
// parameters of any other registry.
var (
	pageParameters  = []string{"n", "last", "next_page"}
	cursorParameter = "cursor"
)

// maxParameter is the length of the longest parameter that is sent upstream, in bytes.
// Answers are remembered by it. A tag has at most 128 characters, and a cursor and a
// media type have a few hundred.
const maxParameter = 1 << 10

func (ex *exchange) serveTags(repo *repository) *apiError {
	// A cursor is good for one repository of one upstream, and for one account.
	bound := []string{"tags", repo.scope, ex.caller.Directory, ex.caller.Name, ex.caller.Token}
	query, refusal := ex.tagsQuery(bound)
	if refusal != nil {
		return refusal
	}
	list, origin, err := repo.content.Tags(ex.r.Context(), query)
	if err != nil {
		return ex.upstreamError(repo, err, manifestUnknown, tooManyRequests)
	}
	if list.Cut != "" && origin.Status == pullthrough.Miss {
		ex.handler.logger.Warn("a list of tags is incomplete", zap.String("upstream", repo.upstream), zap.String("repository", repo.name), zap.String("reason", list.Cut))
	}
	name := ex.route.name()
	if list.Next != nil {
		if refusal := ex.linkTags(list.Next, bound); refusal != nil {
			return refusal
		}
	}
	quoted, err := json.Marshal(name)
	if err != nil {
		panic(err) // strings always marshal
	}
	return ex.sendList(`{"name":`+string(quoted)+`,"tags":`, list, "}", origin)
}

// tagsQuery returns the query of the page of tags that the client requests. A cursor
// is opened, and refused unless it was sealed with the same values bound.
func (ex *exchange) tagsQuery(bound []string) (query url.Values, refusal *apiError) {
	asked, query := ex.r.URL.Query(), url.Values{}
	if cursor := asked.Get(cursorParameter); cursor != "" {
		opened, err := ex.handler.issuer.Open(ex.r.Context(), cursor, bound...)
		if errors.Is(err, tokenissuer.ErrKeysUnavailable) {
			return nil, ex.handler.unavailable("open a cursor", err)
		}
		if err == nil {
			query, err = url.ParseQuery(opened)
		}
		if err != nil {
			return nil, refuse(badRequest, "the parameter cursor is not valid, or not any more; list the tags from the start")
		}
		return query, nil
	}
	for _, name := range pageParameters {
		value := asked.Get(name)
		if len(value) > maxParameter {
			return nil, refuse(badRequest, "the parameter %s is too long", name)
		}
		if value != "" {
			query.Set(name, value)
		}
	}
	if n := query.Get("n"); n != "" {
		if _, err := strconv.ParseUint(n, 10, 31); err != nil {
			return nil, refuse(badRequest, "invalid parameter n; use a number of tags")
		}
	}
	return query, nil
}

// linkTags sets the link to the next page. A query with parameters of the registry's
// own is sealed: it may contain what clients should not see, and they must not be able
// to send another one.
func (ex *exchange) linkTags(next url.Values, bound []string) *apiError {
	link := url.Values{}
	for _, name := range pageParameters {
		if next.Has(name) {
			link.Set(name, next.Get(name))
		}
	}
	if len(link) < len(next) {
		sealed, err := ex.handler.issuer.Seal(ex.r.Context(), next.Encode(), bound...)
		if err != nil {
			return ex.handler.unavailable("seal a cursor", err)
		}
		link = url.Values{cursorParameter: {sealed}}
	}
	if ns := ex.r.URL.Query().Get("ns"); ns != "" {
		link.Set("ns", ns) // of the mirror protocol; it selects the upstream
	}
	target := url.URL{Path: "/v2/" + ex.route.name() + "/tags/list", RawQuery: link.Encode()}
	ex.w.Header().Set("Link", "<"+target.String()+`>; rel="next"`)
	return nil
}

func (ex *exchange) serveReferrers(repo *repository) *apiError {
	artifactType := ex.r.URL.Query().Get("artifactType")
	if len(artifactType) > maxParameter {
		return refuse(badRequest, "the parameter artifactType is too long")
	}
	list, origin, err := repo.content.Referrers(ex.r.Context(), ex.route.digest, artifactType)
	if err != nil {
		return ex.upstreamError(repo, err, manifestUnknown, tooManyRequests)
	}
	if list.FiltersApplied != "" {
		ex.w.Header().Set("OCI-Filters-Applied", list.FiltersApplied)
	}
	return ex.sendList("", list, "", origin)
}

// sendList sends a list, with text before and after it.
func (ex *exchange) sendList(before string, list *upstream.Page, after string, origin pullthrough.Origin) *apiError {
	_, done, refusal := ex.takeAnswer(list, list.Content)
	if refusal != nil {
		return refusal
	}
	defer done()
	h := ex.w.Header()
	h["Cache-Control"] = noTransform
	freshness.SetHeader(h, origin, ex.rec.Upstream, ex.route.image, "")
	ex.rec.Result = resultOf[origin.Status]
	ex.send(http.StatusOK, list.MediaType, []byte(before), list.Content, []byte(after))
	return nil
}
