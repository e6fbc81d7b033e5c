package registrytest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// CursorPrefix begins each cursor of [WithCursors]. Only the registry itself may see
// one, so it must not appear in a response of the proxy.
const CursorPrefix = "cursor-of-the-registry-"

func (r *Registry) serveTags(w http.ResponseWriter, req *http.Request, repo string) {
	r.mu.Lock()
	x := r.repos[repo]
	tags := []string{}
	if x != nil {
		for tag := range x.tags {
			tags = append(tags, tag)
		}
	}
	r.mu.Unlock()
	if x == nil {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN")
		return
	}
	slices.Sort(tags)
	query := req.URL.Query()
	if last := r.lastTag(query); last != "" {
		at, found := slices.BinarySearch(tags, last)
		if found {
			at++
		}
		tags = tags[at:]
	}
	n, err := strconv.Atoi(query.Get("n"))
	if most := r.options.maxPage; most > 0 && n > most {
		fail(w, http.StatusBadRequest, "PAGINATION_NUMBER_INVALID")
		return
	}
	if size := r.options.pageSize; size > 0 && (err != nil || n > size) {
		n, err = size, nil
	}
	if err == nil && n > 0 && n < len(tags) {
		tags = tags[:n]
		w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, req.URL.Path, r.nextPage(n, tags[n-1]).Encode()))
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(encode(map[string]any{"name": repo, "tags": tags}))
}

// nextPage returns the query of the page of n tags after last.
func (r *Registry) nextPage(n int, last string) url.Values {
	if !r.options.cursors {
		return url.Values{"n": {strconv.Itoa(n)}, "last": {last}}
	}
	return url.Values{"n": {strconv.Itoa(n)}, "page": {CursorPrefix + base64.RawURLEncoding.EncodeToString([]byte(last))}}
}

// lastTag returns the tag after which the page of a query begins.
func (r *Registry) lastTag(query url.Values) string {
	if !r.options.cursors {
		return query.Get("last")
	}
	for name := range query {
		if name != "n" && name != "page" {
			r.t.Errorf("got the parameter %s in a request for tags, want only n and page", name)
		}
	}
	last, _ := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(query.Get("page"), CursorPrefix))
	return string(last)
}

func (r *Registry) serveReferrers(w http.ResponseWriter, req *http.Request, what target) {
	if r.options.noReferrers {
		http.NotFound(w, req)
		return
	}
	query := req.URL.Query()
	index := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
	index.SchemaVersion = 2
	for _, d := range r.referrers(what.repo, digest.Digest(what.reference)) {
		if wanted := query.Get("artifactType"); wanted == "" || wanted == d.ArtifactType {
			index.Manifests = append(index.Manifests, d)
		}
	}
	if query.Get("artifactType") != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	if size := r.options.pageSize; size > 0 {
		from, _ := strconv.Atoi(query.Get("from"))
		from = min(from, len(index.Manifests))
		if from+size < len(index.Manifests) {
			query.Set("from", strconv.Itoa(from+size))
			w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel=next`, req.URL.Path, query.Encode()))
		}
		index.Manifests = index.Manifests[from:min(from+size, len(index.Manifests))]
	}
	w.Header().Set("Content-Type", v1.MediaTypeImageIndex)
	_, _ = w.Write(encode(index))
}

// referrers returns the manifests of a repository with the given subject.
func (r *Registry) referrers(repo string, subject digest.Digest) []v1.Descriptor {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []v1.Descriptor
	if x := r.repos[repo]; x != nil {
		for d, m := range x.manifests {
			var content v1.Manifest
			if json.Unmarshal(m.content, &content) == nil && content.Subject != nil && content.Subject.Digest == subject {
				found = append(found, v1.Descriptor{MediaType: m.mediaType, Digest: d, Size: int64(len(m.content)), ArtifactType: content.ArtifactType})
			}
		}
	}
	slices.SortFunc(found, func(a, b v1.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return found
}
