package registrytest

import (
	"fmt"
	"net/http"
)

// RangeFault is what may be wrong with the ranges of blobs.
type RangeFault int

// The faults of ranges.
const (
	RangesRight   RangeFault = iota
	RangesIgnored            // the whole blob is the answer
	RangesRenamed            // each answer has another ETag, so that no If-Range fits
	RangesShifted            // the bytes are those from one further on
)

// FaultRanges makes the ranges of blobs go wrong, after the next so many.
func (r *Registry) FaultRanges(fault RangeFault, after int) {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.ranges, r.faults.rangesIn = fault, after
}

// mangle applies the fault of the ranges, and returns the content to send.
func (f *faults) mangle(w http.ResponseWriter, req *http.Request, content []byte) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rangesIn--
	if f.rangesIn >= 0 || req.Header.Get("Range") == "" {
		return content
	}
	switch f.ranges {
	case RangesIgnored:
		req.Header.Del("Range")
	case RangesRenamed:
		w.Header().Set("ETag", fmt.Sprintf("%q", fmt.Sprint(f.rangesIn)))
	case RangesShifted:
		if len(content) > 0 {
			return append(content[1:len(content):len(content)], content[0])
		}
	}
	return content
}
