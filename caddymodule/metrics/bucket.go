package metrics

import (
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
)

// CountBucketRequest counts a request to a bucket. A status of 0 means that there was no
// answer.
func CountBucketRequest(operation string, status int) {
	process.bucketRequests.with("", operation, codeOf(status)).Add(1)
}

// CountBucketBytes counts bytes that were sent to a bucket and received from it.
func CountBucketBytes(sent, received int) {
	if sent > 0 {
		process.bucketBytes.with("", "sent").Add(uint64(sent))
	}
	if received > 0 {
		process.bucketBytes.with("", "received").Add(uint64(received))
	}
}

// codeOf returns the label of a status: only those that exist, as an endpoint can send any
// number.
func codeOf(status int) string {
	switch {
	case http.StatusText(status) != "":
		return strconv.Itoa(status)
	case status != 0:
		return "other"
	}
	return "error"
}

// readRemote reads the state of the bucket of a storage.
func (g gauges) readRemote(remote storage.Remote, name string) {
	if remote == nil {
		return
	}
	s := remote.RemoteStatus()
	g.set(uploadsWaiting, math.Max, float64(s.Blobs), name, "blob")
	g.set(uploadsWaiting, math.Max, float64(s.Records), name, "record")
	g.set(uploadsFailed, math.Max, float64(s.FailedBlobs), name, "blob")
	g.set(uploadsFailed, math.Max, float64(s.FailedRecords), name, "record")
	g.set(uploadsOldest, math.Max, secondsSince(s.Oldest), name)
	g.set(bucketFailing, math.Max, secondsSince(s.ReadsFail), name, "read")
	g.set(bucketFailing, math.Max, secondsSince(s.WritesFail), name, "write")
}

// secondsSince returns the seconds since a time, or 0 for the zero time.
func secondsSince(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return max(time.Since(t).Seconds(), 0)
}
