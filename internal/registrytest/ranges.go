package registrytest

import (
	"fmt"
	"net/http"
)

// RangeFault is a fault in responses to range requests for blobs.
type RangeFault int

// The faults of range requests.
const (
	RangesRight   RangeFault = iota // no fault
	RangesIgnored                   // the response is the whole blob
	RangesRenamed                   // each response has another ETag, which no If-Range matches
	RangesShifted                   // the content is shifted by one byte
	RangesRefused                   // the response is an error; set by RefuseRanges
)

// FaultRanges sets a fault of range requests, which applies after the given number
// of further GET requests for blobs.
func (r *Registry) FaultRanges(fault RangeFault, after int) {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.ranges, r.faults.rangesIn = fault, after
}

// RefuseRanges makes the registry, or the server to which blobs are redirected,
// respond with an error to range requests for blobs, after the given number of
// further GET requests for blobs. Requests without a range succeed.
func (r *Registry) RefuseRanges(status, after int) {
	r.FaultRanges(RangesRefused, after)
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.rangesStatus = status
}

// applyRangeFault applies the fault to a GET request for a blob, and returns the
// content to send, or the status of an error to send instead.
func (f *faults) applyRangeFault(w http.ResponseWriter, req *http.Request, content []byte) (_ []byte, status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rangesIn--
	if f.rangesIn >= 0 || req.Header.Get("Range") == "" {
		return content, 0
	}
	switch f.ranges {
	case RangesIgnored:
		req.Header.Del("Range")
	case RangesRenamed:
		w.Header().Set("ETag", fmt.Sprintf("%q", fmt.Sprint(f.rangesIn)))
	case RangesRefused:
		return nil, f.rangesStatus
	case RangesShifted:
		if len(content) > 0 {
			return append(content[1:len(content):len(content)], content[0]), 0
		}
	}
	return content, 0
}
