package metrics

import "slices"

// Prefix begins the names of all metrics.
const Prefix = "caddy_dependency_proxy_"

// Description describes a metric.
type Description struct {
	Name   string // with the prefix
	Type   string // counter, gauge or histogram
	Help   string
	Labels []string // of each series

	// PerGroup reports that the metric also has the label group on sites with
	// per_group.
	PerGroup bool
}

var descriptions []Description

// All returns the descriptions of all metrics.
func All() []Description { return slices.Clone(descriptions) }

func describe(kind, name, help string, labels ...string) Description {
	d := Description{Name: Prefix + name, Type: kind, Help: help, Labels: labels}
	descriptions = append(descriptions, d)
	return d
}

func describePerGroup(name, help string, labels ...string) Description {
	d := describe("counter", name, help, labels...)
	d.PerGroup = true
	descriptions[len(descriptions)-1] = d
	return d
}

var (
	requestsTotal = describePerGroup("requests_total",
		"Requests by what they ask for and how they ended.", "kind", "result")
	responseBytes = describePerGroup("response_bytes_total",
		"Bytes of manifests and blobs sent to clients, by the upstream that has them and where they were read from.", "upstream", "source")
	firstByteSeconds = describe("histogram", "first_byte_seconds",
		"Time from the arrival of a request to the header of its response.", "kind", "result")
	deniedTotal = describePerGroup("denied_total",
		"Requests denied because the caller lacks a right.", "reason")
	throttledTotal = describe("counter", "throttled_total",
		"Logins that were not checked because too many had failed or were being checked.")
	peerRequests = describe("counter", "peer_requests_total",
		"Requests of other nodes for content, by what they ask for and how they ended.", "kind", "result")
	peerBytes = describe("counter", "peer_response_bytes_total",
		"Bytes of manifests and blobs sent to other nodes.")
	loginsTotal = describe("counter", "logins_total",
		"Logins with a password or an access token that were checked.", "directory", "result", "site")

	upstreamRequests = describe("counter", "upstream_requests_total",
		"HTTP requests to upstreams, their token services and their storage, redirects included.", "upstream", "operation", "code")
	upstreamSeconds = describe("histogram", "upstream_request_seconds",
		"Time from the start of an HTTP request to an upstream to the header of the response.", "upstream", "operation")
	upstreamBytes = describe("counter", "upstream_bytes_total",
		"Bytes of the bodies received from upstreams.", "upstream")
	upstreamUp = describe("gauge", "upstream_up",
		"Whether the upstream answers: 0 after failures in a row, until it answers again.", "upstream", "site")
	rateLimitRemaining = describe("gauge", "upstream_ratelimit_remaining",
		"Pulls that the upstream still allows in the present window, as it last said.", "upstream", "login", "site")
	rateLimitLimit = describe("gauge", "upstream_ratelimit_limit",
		"Pulls that the upstream allows in a window, as it last said.", "upstream", "login", "site")

	fillsInFlight = describe("gauge", "fills_in_flight",
		"Downloads of blobs that are running.", "storage")
	fillsTotal = describe("counter", "fills_total",
		"Downloads of blobs that have ended.", "result")
	fillResumes = describe("counter", "fill_resumes_total",
		"Downloads continued after the upstream had broken off.")
	storedBytes = describe("gauge", "stored_bytes",
		"Bytes of the stored content.", "storage")
	storedLimit = describe("gauge", "stored_limit_bytes",
		"Bytes that the stored content may take: max_size, or what the disk leaves if that is less.", "storage")
	storedBlobs = describe("gauge", "stored_blobs",
		"Blobs and manifests that are stored.", "storage")
	evictedBytes = describe("counter", "evicted_bytes_total",
		"Bytes of content removed from the storage.", "reason")
	damagedTotal = describe("counter", "damaged_total",
		"Stored contents that were damaged and have been removed.")
	directoryUp = describe("gauge", "directory_up",
		"Whether the directory answers.", "directory", "site")
	peerNodes = describe("gauge", "peers",
		"Nodes in the list of a site with peers, by whether they are asked.", "state", "site")
	quotaBytes = describe("gauge", "quota_bytes",
		"Bytes that a group with a quota has, as last measured.", "group", "storage")
	quotaLimit = describe("gauge", "quota_limit_bytes",
		"Quota of a group.", "group", "storage")

	bucketRequests = describe("counter", "bucket_requests_total",
		"HTTP requests to buckets.", "operation", "code")
	bucketBytes = describe("counter", "bucket_bytes_total",
		"Bytes of bodies sent to buckets and received from them.", "direction")
	bucketFailing = describe("gauge", "bucket_failing_seconds",
		"Seconds for which the bucket has failed without a success, or 0.", "storage", "access")
	uploadsWaiting = describe("gauge", "uploads_waiting",
		"Blobs and records that are to be uploaded to the bucket.", "storage", "content")
	uploadsFailed = describe("gauge", "uploads_failed",
		"Waiting blobs and records that the bucket refuses or fails for while it takes others.", "storage", "content")
	uploadsOldest = describe("gauge", "uploads_oldest_seconds",
		"Seconds for which the oldest upload has waited, or 0.", "storage")
)
