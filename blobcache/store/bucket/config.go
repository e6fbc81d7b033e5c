package bucket

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// Keys returns a secret that the nodes of a cluster share, of at least 16 bytes, and
// its id: the one that is in use, or the one with the given id unless that is empty.
// The error is fs.ErrNotExist if there is none with the id. An id consists of letters,
// digits, "-" and "_".
type Keys func(ctx context.Context, id string) (known string, key []byte, err error)

// Config describes a bucket and how it is used. Local, Endpoint, Bucket, Credentials
// and Keys are required.
type Config struct {
	// Local is the first tier.
	Local *store.FileStore

	// Endpoint is the host, and the port if it is not the default one, of the object
	// store. Plain means that it is asked by HTTP instead of HTTPS.
	Endpoint string
	Plain    bool

	// Bucket is the name of the bucket, which must exist. Prefix begins the name of
	// each object. It is empty or ends with a slash.
	Bucket, Prefix string

	// Region is the region in signatures. The default is us-east-1.
	Region string

	// PathStyle puts the name of the bucket into the path of URLs. By default it is
	// the first label of the host.
	PathStyle bool

	// Credentials sign the requests. They are read again when the object store refuses
	// them.
	Credentials *credentials.Credentials

	// Keys authenticate the records.
	Keys Keys

	// MaxSize is the size in bytes of the content in the bucket above which the least
	// recently used content is removed, and UnusedFor the time after its last use at
	// which content is removed. Both hold within a day. Zero means no limit.
	MaxSize   int64
	UnusedFor time.Duration

	// StorageError, if not nil, is called when the bucket begins to fail, and for each
	// object that is refused because it is damaged or forged, or that always fails, at
	// most once a minute where there may be many. Op says what was being done. It must
	// not block.
	StorageError func(op string, err error)

	// Requested, if not nil, is called after each request to the object store with what
	// it was about ("get", "head", "put", "delete", "list" or "multipart") and the status
	// of the answer, or 0 without one. Transferred, if not nil, is called with the numbers
	// of bytes of bodies as they are sent and received. Neither may block.
	Requested   func(operation string, status int)
	Transferred func(sent, received int)

	waits waits

	// partSize is the size in bytes above which content is uploaded in parts of this
	// size, or of larger ones if there would be more than maxParts.
	partSize int64

	// transport sends the requests. The default is a copy of [http.DefaultTransport] that
	// waits one minute for the header of an answer.
	transport http.RoundTripper
}

// waits are the times that the store waits. Zeros stand for the defaults.
type waits struct {
	pause    time.Duration // after the first failure of the bucket; doubles
	maxPause time.Duration
	answer   time.Duration // for the first byte of content
	record   time.Duration // for a record
	absent   time.Duration // how long a record is known not to be there
	rescan   time.Duration // between checks whether something did not fit a queue
	verified time.Duration // how long the answer of the bucket about redirected content is used

	flush time.Duration // for uploads at the end
	stall time.Duration // for a step of an upload

	sweepRate float64 // requests of a sweep per second
}

func (c Config) withDefaults() Config {
	c.Region = cmp.Or(c.Region, "us-east-1")
	if c.Requested == nil {
		c.Requested = func(string, int) {}
	}
	if c.Transferred == nil {
		c.Transferred = func(int, int) {}
	}
	if c.StorageError == nil {
		c.StorageError = func(string, error) {}
	}
	w := &c.waits
	w.pause = cmp.Or(w.pause, time.Second)
	w.maxPause = cmp.Or(w.maxPause, time.Minute)
	w.answer = cmp.Or(w.answer, 5*time.Second)
	w.record = cmp.Or(w.record, 2*time.Second)
	w.absent = cmp.Or(w.absent, 5*time.Second)
	w.rescan = cmp.Or(w.rescan, time.Minute)
	w.verified = cmp.Or(w.verified, time.Second)
	w.flush = cmp.Or(w.flush, 5*time.Second)
	w.stall = cmp.Or(w.stall, time.Minute)
	w.sweepRate = cmp.Or(w.sweepRate, sweepRate)
	c.partSize = cmp.Or(c.partSize, partSize)
	if c.transport == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.ResponseHeaderTimeout = w.stall
		c.transport = transport
	}
	return c
}
