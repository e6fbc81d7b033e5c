package registrytest

import (
	"net/http"
	"sync"
)

// Op is a kind of request.
type Op int

// The kinds of requests.
const (
	OpAny Op = iota // any kind; only in a [Failure]
	OpPing
	OpToken
	OpManifest
	OpBlob
	OpTags
	OpReferrers
	OpStorage // to the server to which blobs are redirected
)

// add counts a request.
func (c *Counts) add(op Op, method string) {
	counter := &c.Other
	head := method == http.MethodHead
	switch {
	case !head && method != http.MethodGet && op != OpToken:
	case op == OpPing:
		counter = &c.Ping
	case op == OpToken:
		counter = &c.Token
	case op == OpManifest && head:
		counter = &c.ManifestHead
	case op == OpManifest:
		counter = &c.ManifestGet
	case op == OpBlob && head:
		counter = &c.BlobHead
	case op == OpBlob:
		counter = &c.BlobGet
	case op == OpTags:
		counter = &c.Tags
	case op == OpReferrers:
		counter = &c.Referrers
	}
	*counter++
}

// Failure is an error response to certain requests.
type Failure struct {
	Op     Op     // the kind of requests
	Method string // the method of the requests, "" for any
	Status int
	Header http.Header
	Body   string
	Times  int // how many requests fail, 0 for all until [Registry.Heal]
}

// faults is the set of active faults.
type faults struct {
	mu        sync.Mutex
	hook      func(http.ResponseWriter, *http.Request) bool
	failures  []*Failure
	cutAfter  int64
	cuts      int
	corrupt   int
	stallAt   int64
	stall     chan struct{} // open while bodies stall
	perSecond int64
	ranges    RangeFault
	rangesIn  int // GET requests for blobs before ranges is active

	rangesStatus int // of RangesRefused
}

// SetFault sets a hook that receives every request to either server first, and
// reports whether it has responded. A hook that sets headers and reports false
// adds them to the registry's own response, except for those that this sets
// itself. A nil hook removes the fault.
func (r *Registry) SetFault(hook func(w http.ResponseWriter, req *http.Request) bool) {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.hook = hook
}

// Fail adds a failure. If several match a request, the one that was added first
// applies.
func (r *Registry) Fail(f Failure) {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	if f.Times == 0 {
		f.Times = -1
	}
	r.faults.failures = append(r.faults.failures, &f)
}

// CutBlobs closes the connection after the given number of bytes of a blob, for
// the next bodies that are longer.
func (r *Registry) CutBlobs(after int64, times int) {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.cutAfter, r.faults.cuts = after, times
}

// CorruptBlobs changes the first byte of the next blob bodies.
func (r *Registry) CorruptBlobs(times int) {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.corrupt = times
}

// StallBlobs pauses every further blob body after the given number of bytes, which
// are flushed to the client. The pause ends when release or [Registry.Heal] is
// called or the client leaves.
func (r *Registry) StallBlobs(after int64) (release func()) {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.release()
	gate := make(chan struct{})
	r.faults.stallAt, r.faults.stall = after, gate
	return func() {
		r.faults.mu.Lock()
		defer r.faults.mu.Unlock()
		if r.faults.stall == gate {
			r.faults.release()
		}
	}
}

// Throttle limits the rate of each blob body, in steps of 20 ms. 0 removes the
// limit.
func (r *Registry) Throttle(bytesPerSecond int64) {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.perSecond = bytesPerSecond
}

// Heal removes all faults.
func (r *Registry) Heal() {
	f := &r.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	f.release()
	f.hook, f.failures, f.cuts, f.corrupt, f.perSecond, f.ranges = nil, nil, 0, 0, 0, RangesRight
}

// release resumes stalled bodies. The caller holds the lock.
func (f *faults) release() {
	if f.stall != nil {
		close(f.stall)
		f.stall = nil
	}
}

// answer lets the hook or a failure respond to a request, and reports whether one
// did. It calls count for such a request: before a failure responds, because the client
// may be done with a long response before its end is sent.
func (f *faults) answer(op Op, w http.ResponseWriter, req *http.Request, count func()) bool {
	f.mu.Lock()
	hook := f.hook
	f.mu.Unlock()
	// The lock is not held, because a hook may wait or change the faults.
	if hook != nil && hook(w, req) {
		count()
		return true
	}
	failure, found := f.failure(op, req.Method)
	if !found {
		return false
	}
	count()
	for name, values := range failure.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(failure.Status)
	_, _ = w.Write([]byte(failure.Body))
	return true
}

// failure returns the failure for a request, if any, and counts it.
func (f *faults) failure(op Op, method string) (Failure, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, failure := range f.failures {
		matches := (failure.Op == OpAny || failure.Op == op) && (failure.Method == "" || failure.Method == method)
		if matches && failure.Times != 0 {
			failure.Times--
			return *failure, true
		}
	}
	return Failure{}, false
}

// plan is the set of faults of one blob body.
type plan struct {
	faults    *faults
	cut       bool // at cutAfter, if the body is longer
	cutAfter  int64
	corrupt   bool
	stall     <-chan struct{} // nil for no stall
	stallAt   int64
	perSecond int64
}

// plan returns the faults for the next body. A cut is counted only when it
// happens, by takeCut.
func (f *faults) plan(method string) plan {
	f.mu.Lock()
	defer f.mu.Unlock()
	if method == http.MethodHead {
		return plan{}
	}
	p := plan{faults: f, cut: f.cuts > 0, cutAfter: f.cutAfter, stall: f.stall, stallAt: f.stallAt, perSecond: f.perSecond}
	if f.corrupt > 0 {
		f.corrupt--
		p.corrupt = true
	}
	return p
}

// takeCut reports whether another cut is due, and counts it.
func (f *faults) takeCut() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cuts == 0 {
		return false
	}
	f.cuts--
	return true
}
