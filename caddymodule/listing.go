package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// Lists are believed for listFresh, and shown for as long as they are
// remembered when upstream cannot be asked.
const (
	listFresh   = 30 * time.Second
	listEntries = 1024
	listsLimit  = 32 << 20 // bytes of them
)

// list is one page that upstream gave, and when. All who are sent it share its
// content.
type list struct {
	upstream.Page
	at time.Time
}

// lists are the lists that were asked for last.
type lists struct {
	mu    sync.Mutex
	known *simplelru.LRU[string, *list]
	bytes int
}

func newLists() *lists {
	l := new(lists)
	known, err := simplelru.NewLRU(listEntries, func(_ string, old *list) { l.bytes -= len(old.Content) })
	if err != nil {
		panic(err) // the size is a positive constant
	}
	l.known = known
	return l
}

func (l *lists) get(key string) (*list, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known.Get(key)
}

func (l *lists) add(key string, page *list) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known.Remove(key)
	l.known.Add(key, page)
	for l.bytes += len(page.Content); l.bytes > listsLimit; {
		l.known.RemoveOldest()
	}
}

// forget forgets the lists whose keys begin so.
func (l *lists) forget(prefix string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range l.known.Keys() {
		if strings.HasPrefix(key, prefix) {
			l.known.Remove(key)
		}
	}
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
	page, status, err := p.list(ex.r.Context(), "tags "+query.Encode(), func(ctx context.Context) (*list, error) {
		page, err := askOf(ctx, p, func() (upstream.Page, error) { return p.registry.Tags(ctx, p.name, query) })
		if err == nil {
			page.Content, err = tagsOf(page.Content)
		}
		return &list{page, time.Now()}, err
	})
	if err != nil {
		return ex.fromUpstream(p, err, nameUnknown, tooManyRequests)
	}
	name := ex.route.name()
	if page.Next != nil {
		next := url.URL{Path: "/v2/" + name + "/tags/list", RawQuery: page.Next.Encode()}
		ex.w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
	}
	quoted, err := json.Marshal(name)
	if err != nil {
		panic(err) // strings always marshal
	}
	return ex.sendList(`{"name":`+string(quoted)+`,"tags":`, page, "}", status)
}

// tagsOf returns the tags of upstream's list as JSON. What stands around them
// depends on the name that the client has for the repository.
func tagsOf(content []byte) ([]byte, error) {
	var list struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(content, &list); err != nil {
		return nil, fmt.Errorf("read the list of tags: %w", err)
	}
	if list.Tags == nil {
		list.Tags = []string{} // clients stumble over null
	}
	return json.Marshal(list.Tags)
}

func (ex *exchange) serveReferrers(p *repository) *apiError {
	d, artifactType := ex.route.digest, ex.r.URL.Query().Get("artifactType")
	page, status, err := p.list(ex.r.Context(), "referrers "+d.String()+" "+artifactType, func(ctx context.Context) (*list, error) {
		page, err := askOf(ctx, p, func() (upstream.Page, error) { return p.registry.Referrers(ctx, p.name, d, artifactType) })
		return &list{page, time.Now()}, err
	})
	if err != nil {
		return ex.fromUpstream(p, err, manifestUnknown, tooManyRequests)
	}
	if page.FiltersApplied != "" {
		ex.w.Header().Set("OCI-Filters-Applied", page.FiltersApplied)
	}
	return ex.sendList("", page, "", status)
}

// list answers with a page that upstream gave lately, else with what it says
// now, else with what it last said.
func (p *repository) list(ctx context.Context, what string, ask func(context.Context) (*list, error)) (*list, []string, error) {
	key := p.scope + " " + what
	old, known := p.lists.get(key)
	if known && time.Since(old.at) < listFresh {
		return old, statusHit, nil
	}
	page, err := once(ctx, p, what, func(ctx context.Context) (*list, error) {
		page, err := ask(ctx)
		if err == nil {
			p.lists.add(key, page)
		}
		return page, err
	})
	switch {
	case err == nil:
		return page, statusMiss, nil
	case known && ctx.Err() == nil:
		return old, statusStale, nil
	}
	return nil, nil, err
}

// sendList sends a list, with what stands before and after it.
func (ex *exchange) sendList(before string, page *list, after string, status []string) *apiError {
	_, done, refusal := ex.takeAnswer(page, page.Content)
	if refusal != nil {
		return refusal
	}
	defer done()
	h := ex.w.Header()
	h["Cache-Control"] = noTransform
	h["Cache-Status"] = status
	h["Content-Type"] = []string{page.MediaType}
	ex.setLength(int64(len(before) + len(page.Content) + len(after)))
	ex.w.WriteHeader(http.StatusOK)
	if ex.wantsBody() {
		for _, part := range [][]byte{[]byte(before), page.Content, []byte(after)} {
			_, _ = ex.w.Write(part) // a client that has left needs no error
		}
	}
	return nil
}
