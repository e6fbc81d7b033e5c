package registrytest

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Signature is the query parameter that authorizes a redirected request for a
// blob. Its value is a secret and must not appear in an error text or a log.
const Signature = "X-Amz-Signature"

const signatureValue = "signature-that-must-not-leak"

// target describes the object of a request.
type target struct {
	kind      Op
	repo      string
	reference string
}

// parse parses the path of a request, and reports whether the registry serves it.
func (r *Registry) parse(req *http.Request) (target, bool) {
	path, found := strings.CutPrefix(req.URL.Path, r.options.prefix)
	if !found {
		return target{}, false
	}
	if path == "/token" {
		return target{kind: OpToken}, true
	}
	if path, found = strings.CutPrefix(path, "/v2/"); !found {
		return target{}, false
	}
	if path == "" {
		return target{kind: OpPing}, true
	}
	if repo, found := strings.CutSuffix(path, "/tags/list"); found {
		return target{kind: OpTags, repo: repo}, true
	}
	for _, kind := range []Op{OpManifest, OpBlob, OpReferrers} {
		separator := map[Op]string{OpManifest: "/manifests/", OpBlob: "/blobs/", OpReferrers: "/referrers/"}[kind]
		if i := strings.LastIndex(path, separator); i > 0 {
			return target{kind, path[:i], path[i+len(separator):]}, true
		}
	}
	return target{}, false
}

// serve handles requests to the registry.
func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	what, ok := r.parse(req)
	head := req.Method == http.MethodHead
	count := func() { r.count(func(c *Counts) { c.add(what.kind, req.Method) }) }
	if r.faults.answer(what.kind, w, req, count) {
		return
	}
	if what.kind == OpToken {
		count()
		r.serveToken(w, req)
		return
	}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if !r.authorized(what.repo, req) {
		r.count(func(c *Counts) { c.Challenged++ })
		r.challenge(w, req, what)
		return
	}
	count()
	switch {
	case !ok:
		http.NotFound(w, req)
	case req.Method != http.MethodGet && (!head || r.options.noHead):
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED")
	case what.kind != OpPing && r.options.gateway != nil:
		http.Redirect(w, req, r.options.gateway.server.URL+req.URL.RequestURI(), http.StatusTemporaryRedirect)
	case what.kind == OpPing:
		_, _ = w.Write([]byte("{}"))
	case what.kind == OpManifest && r.limited(w, req.Method):
	case what.kind == OpManifest:
		r.serveManifest(w, req, what)
	case what.kind == OpBlob:
		r.serveBlob(w, req, what)
	case what.kind == OpTags:
		r.serveTags(w, req, what.repo)
	case what.kind == OpReferrers:
		r.serveReferrers(w, req, what)
	}
}

// fail sends an error response according to the distribution specification.
func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"free text of the registry"}]}`, code)
}

func (r *Registry) serveManifest(w http.ResponseWriter, req *http.Request, what target) {
	r.mu.Lock()
	x := r.repos[what.repo]
	var m manifest
	var found bool
	var d digest.Digest
	if x != nil {
		d, m, found = x.find(what.reference, req.Header.Get("Accept"))
	}
	r.mu.Unlock()
	switch {
	case x == nil:
		fail(w, http.StatusNotFound, "NAME_UNKNOWN")
		return
	case !found:
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
		return
	}
	mediaType := m.mediaType
	if r.options.manifestType != "" {
		mediaType = r.options.manifestType
	}
	w.Header().Set("Content-Type", mediaType)
	if !r.options.noDigest {
		w.Header().Set("Docker-Content-Digest", string(d))
	}
	if r.options.noLength {
		// A flush before the handler returns omits the length.
		w.(http.Flusher).Flush()
	} else {
		w.Header().Set("Content-Length", strconv.Itoa(len(m.content)))
	}
	if req.Method != http.MethodHead {
		_, _ = w.Write(m.content)
	}
}

func (r *Registry) serveBlob(w http.ResponseWriter, req *http.Request, what target) {
	r.mu.Lock()
	x := r.repos[what.repo]
	var content []byte
	var found bool
	if x != nil {
		content, found = x.blobs[digest.Digest(what.reference)]
	}
	r.mu.Unlock()
	switch {
	case x == nil:
		fail(w, http.StatusNotFound, "NAME_UNKNOWN")
	case !found:
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN")
	case r.storage != nil:
		query := url.Values{Signature: {signatureValue}, "repo": {what.repo}, "blob": {what.reference}}
		w.Header().Set("Location", r.storage.URL+"/blob?"+query.Encode())
		w.WriteHeader(http.StatusTemporaryRedirect)
	default:
		if !r.options.noDigest {
			w.Header().Set("Docker-Content-Digest", what.reference)
		}
		r.sendBlob(w, req, digest.Digest(what.reference), content)
	}
}

// serveStorage handles requests to the server to which blobs are redirected.
func (r *Registry) serveStorage(w http.ResponseWriter, req *http.Request) {
	r.count(func(c *Counts) { c.Storage++ })
	for _, name := range []string{"Authorization", "Referer", "Cookie"} {
		if req.Header.Get(name) != "" {
			r.t.Errorf("got %s in a request to the storage, want none", name)
		}
	}
	if r.faults.answer(OpStorage, w, req, func() {}) {
		return
	}
	query := req.URL.Query()
	if query.Get(Signature) != signatureValue || r.options.signedGetOnly && req.Method != http.MethodGet {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte("<Error><Code>SignatureDoesNotMatch</Code></Error>"))
		return
	}
	d := digest.Digest(query.Get("blob"))
	r.mu.Lock()
	var content []byte
	var found bool
	if x := r.repos[query.Get("repo")]; x != nil {
		content, found = x.blobs[d]
	}
	r.mu.Unlock()
	if !found {
		http.NotFound(w, req)
		return
	}
	r.sendBlob(w, req, d, content)
}

// sendBlob sends the content of a blob, or a range of it, with the current faults.
func (r *Registry) sendBlob(w http.ResponseWriter, req *http.Request, d digest.Digest, content []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+string(d)+`"`)
	if r.options.noRanges {
		req.Header.Del("Range")
	}
	if req.Method == http.MethodGet {
		r.recordRange(req.Header.Get("Range"))
		var refusal int
		if content, refusal = r.faults.applyRangeFault(w, req, content); refusal != 0 {
			fail(w, refusal, "UNSUPPORTED")
			return
		}
	}
	body := &blobWriter{ResponseWriter: w, registry: r, request: req, plan: r.faults.plan(req.Method), noLength: r.options.noLength}
	http.ServeContent(body, req, "", time.Time{}, bytes.NewReader(content))
}
