package caddymodule

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

func (ex *exchange) serveTags(repo *repository) *apiError {
	query := url.Values{}
	for _, name := range []string{"n", "last", "next_page"} { // next_page is Quay's
		if value := ex.r.URL.Query().Get(name); value != "" {
			query.Set(name, value)
		}
	}
	if n := query.Get("n"); n != "" {
		if _, err := strconv.ParseUint(n, 10, 31); err != nil {
			return refuse(badRequest, "invalid parameter n; use a number of tags")
		}
	}
	list, status, err := repo.content.Tags(ex.r.Context(), query)
	if err != nil {
		return ex.upstreamError(repo, err, nameUnknown, tooManyRequests)
	}
	name := ex.route.name()
	if list.Next != nil {
		next := url.URL{Path: "/v2/" + name + "/tags/list", RawQuery: list.Next.Encode()}
		ex.w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
	}
	quoted, err := json.Marshal(name)
	if err != nil {
		panic(err) // strings always marshal
	}
	return ex.sendList(`{"name":`+string(quoted)+`,"tags":`, list, "}", status)
}

func (ex *exchange) serveReferrers(repo *repository) *apiError {
	list, status, err := repo.content.Referrers(ex.r.Context(), ex.route.digest, ex.r.URL.Query().Get("artifactType"))
	if err != nil {
		return ex.upstreamError(repo, err, manifestUnknown, tooManyRequests)
	}
	if list.FiltersApplied != "" {
		ex.w.Header().Set("OCI-Filters-Applied", list.FiltersApplied)
	}
	return ex.sendList("", list, "", status)
}

// sendList sends a list, with text before and after it.
func (ex *exchange) sendList(before string, list *upstream.Page, after string, status pullthrough.Status) *apiError {
	_, done, refusal := ex.takeAnswer(list, list.Content)
	if refusal != nil {
		return refusal
	}
	defer done()
	h := ex.w.Header()
	h["Cache-Control"] = noTransform
	h["Cache-Status"] = cacheStatusValues[status]
	ex.send(http.StatusOK, list.MediaType, []byte(before), list.Content, []byte(after))
	return nil
}
