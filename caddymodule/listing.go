package caddymodule

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// Lists are believed for listFresh, and shown for as long as they are
// remembered when upstream cannot be asked: 32 MiB of them at most.
const (
	listFresh   = 30 * time.Second
	listEntries = 128
	listLimit   = 256 << 10
)

// list is one page that upstream gave, and when.
type list struct {
	upstream.Page
	at time.Time
}

func newLists() *lru.Cache[string, list] {
	lists, err := lru.New[string, list](listEntries)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return lists
}

func (ex *exchange) serveTags(p *repository) *apiError {
	query := url.Values{}
	for _, name := range []string{"n", "last", "next_page"} { // the third is Quay's
		if value := ex.r.URL.Query().Get(name); value != "" {
			query.Set(name, value)
		}
	}
	if n := query.Get("n"); n != "" {
		if _, err := strconv.ParseUint(n, 10, 31); err != nil {
			return refuse(badRequest, "n is not a number of tags")
		}
	}
	page, status, err := p.list(ex.r.Context(), "tags "+query.Encode(), func(ctx context.Context) (upstream.Page, error) {
		return p.registry.Tags(ctx, p.name, query)
	})
	if err != nil {
		return ex.fromUpstream(p, err, nameUnknown, tooManyRequests)
	}
	var tags struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(page.Content, &tags); err != nil {
		return &apiError{problem: badGateway, message: "the upstream registry's list of tags cannot be read", cause: err}
	}
	if tags.Tags == nil {
		tags.Tags = []string{} // clients stumble over null
	}
	tags.Name = ex.route.name()
	body, err := json.Marshal(tags)
	if err != nil {
		panic(err) // strings always marshal
	}
	if page.Next != nil {
		next := url.URL{Path: "/v2/" + tags.Name + "/tags/list", RawQuery: page.Next.Encode()}
		ex.w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
	}
	ex.sendList(body, "application/json", status)
	return nil
}

func (ex *exchange) serveReferrers(p *repository) *apiError {
	d, artifactType := ex.route.digest, ex.r.URL.Query().Get("artifactType")
	page, status, err := p.list(ex.r.Context(), "referrers "+d.String()+" "+artifactType, func(ctx context.Context) (upstream.Page, error) {
		return p.registry.Referrers(ctx, p.name, d, artifactType)
	})
	if err != nil {
		return ex.fromUpstream(p, err, manifestUnknown, tooManyRequests)
	}
	if page.FiltersApplied != "" {
		ex.w.Header().Set("OCI-Filters-Applied", page.FiltersApplied)
	}
	ex.sendList(page.Content, page.MediaType, status)
	return nil
}

// list answers with a page that upstream gave lately, else with what it says
// now, else with what it last said.
func (p *repository) list(ctx context.Context, what string, ask func(context.Context) (upstream.Page, error)) (upstream.Page, []string, error) {
	key := p.scope + " " + what
	old, known := p.lists.Get(key)
	if known && time.Since(old.at) < listFresh {
		return old.Page, statusHit, nil
	}
	page, err := once(ctx, p, what, ask)
	switch {
	case err == nil:
		if len(page.Content) <= listLimit {
			p.lists.Add(key, list{page, time.Now()})
		}
		return page, statusMiss, nil
	case known && ctx.Err() == nil:
		return old.Page, statusStale, nil
	}
	return page, nil, err
}

func (ex *exchange) sendList(body []byte, mediaType string, status []string) {
	h := ex.w.Header()
	h["Cache-Control"] = noTransform
	h["Cache-Status"] = status
	h["Content-Type"] = []string{mediaType}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	ex.w.WriteHeader(http.StatusOK)
	if ex.wantsBody() {
		_, _ = ex.w.Write(body)
	}
}
