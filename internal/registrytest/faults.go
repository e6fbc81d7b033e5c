package registrytest

import (
	"net/http"
	"sync"
)

// Op is a kind of request.
type Op int

// The kinds of requests.
const (
	OpAny Op = iota // in a [Failure]: all of them
	OpPing
	OpToken
	OpManifest
	OpBlob
	OpTags
	OpReferrers
	OpStorage // to the server that blobs are redirected to
)

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

// Failure is an answer that requests get instead of what they asked for.
type Failure struct {
	Op     Op     // which requests
	Method string // only this one; "" for all
	Status int
	Header http.Header
	Body   string
	Times  int // so often, then no more; 0 until [Registry.Heal]
}

// faults is what is wrong with a registry at the moment.
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
	rangesIn  int // so many blobs are sent right before
}

// SetFault installs a hook that sees every request, to either server, before
// anything else does, and reports whether it answered it. It may set headers and
// report false: the registry's own answer then carries them, unless it sets the
// same. nil removes the hook.
func (r *Registry) SetFault(hook func(w http.ResponseWriter, req *http.Request) bool) {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.hook = hook
}

// Fail makes requests fail from now on. Of several failures that fit, the oldest
// counts.
func (r *Registry) Fail(f Failure) {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	if f.Times == 0 {
		f.Times = -1
	}
	r.faults.failures = append(r.faults.failures, &f)
}

// CutBlobs ends the connection after so many bytes of a blob's body, for the
// next so many bodies that are longer than that.
func (r *Registry) CutBlobs(after int64, times int) {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.cutAfter, r.faults.cuts = after, times
}

// CorruptBlobs turns the first byte of the next so many blob bodies into another.
func (r *Registry) CorruptBlobs(times int) {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.corrupt = times
}

// StallBlobs holds up every blob body that starts from now on after so many
// bytes, which have reached the client then, until release is called, the
// registry heals or the client leaves.
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

// Throttle limits each blob body to so many bytes per second, in steps of a
// fiftieth of that. 0 removes the limit.
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

// release lets stalled bodies go on. The caller holds the lock.
func (f *faults) release() {
	if f.stall != nil {
		close(f.stall)
		f.stall = nil
	}
}

// answer lets the hook or a failure answer a request.
func (f *faults) answer(op Op, w http.ResponseWriter, req *http.Request) bool {
	f.mu.Lock()
	hook := f.hook
	f.mu.Unlock()
	// Outside the lock: a hook may wait, and may change the faults.
	if hook != nil && hook(w, req) {
		return true
	}
	failure, found := f.failure(op, req.Method)
	if !found {
		return false
	}
	for name, values := range failure.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(failure.Status)
	_, _ = w.Write([]byte(failure.Body))
	return true
}

func (f *faults) failure(op Op, method string) (Failure, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, failure := range f.failures {
		fits := (failure.Op == OpAny || failure.Op == op) && (failure.Method == "" || failure.Method == method)
		if fits && failure.Times != 0 {
			failure.Times--
			return *failure, true
		}
	}
	return Failure{}, false
}

// plan is what happens to one blob body.
type plan struct {
	faults    *faults
	cut       bool // if it comes to cutAfter
	cutAfter  int64
	corrupt   bool
	stall     <-chan struct{} // nil: no stall
	stallAt   int64
	perSecond int64
}

// plan takes the faults for a body that is about to be sent. Cuts are only
// taken off the count when they happen.
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

// takeCut reports whether a cut is still due, and counts it.
func (f *faults) takeCut() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cuts == 0 {
		return false
	}
	f.cuts--
	return true
}
