package storage

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// Trouble is called with the name and the error of an operation on a storage that has
// failed.
type Trouble func(op string, err error)

// Storage is a module of the namespace http.dependency_proxy.storage.
type Storage interface {
	// Open opens the storage. It is called once for all configurations with the
	// same identity. The results outlive the configuration, so they must call
	// logger for each message. They call trouble for each failed operation that
	// the storage repairs itself, and that no request fails for.
	Open(logger func() *zap.Logger, trouble Trouble) (store.Blobs, store.Records, error)

	// Limits returns the limits of the cache in the storage.
	Limits() blobcache.Limits

	// Identity returns a text that is equal for configurations that may share
	// the results of Open: those with the same location and settings.
	Identity() string

	// String describes the location, for messages.
	String() string
}

// Keeper is implemented by blobs that have work in the background, such as uploads.
// Keep returns when ctx has ended.
type Keeper interface {
	Keep(ctx context.Context)
}

// Remote is implemented by blobs with a copy elsewhere.
type Remote interface {
	RemoteStatus() RemoteStatus

	// Replica returns the copy as a source of downloads. It is the same with each call.
	Replica() fill.Replica
}

// RemoteStatus describes the copy and what is still to be uploaded to it.
type RemoteStatus struct {
	Name    string `json:"name"`
	Blobs   int    `json:"blobs_to_upload"`
	Records int    `json:"records_to_upload"`
	More    bool   `json:"more,omitempty"` // there are more, which did not fit the queue

	// Oldest is the time since which the oldest of them has waited. FailedBlobs and
	// FailedRecords are the numbers of those that are refused while others are not. They
	// are tried again within an hour. ObjectError is the error of one of them.
	Oldest        time.Time `json:"oldest,omitzero"`
	FailedBlobs   int       `json:"blobs_refused,omitempty"`
	FailedRecords int       `json:"records_refused,omitempty"`
	ObjectError   string    `json:"object_error,omitempty"`

	// ReadError is the last failure of a read, and ReadsFail the time since which reads
	// have failed. Both are empty while reads succeed. WriteError and WritesFail are the
	// same for writes.
	ReadError  string    `json:"read_error,omitempty"`
	ReadsFail  time.Time `json:"reads_fail_since,omitzero"`
	WriteError string    `json:"write_error,omitempty"`
	WritesFail time.Time `json:"writes_fail_since,omitzero"`
}

// Keys returns a secret that the nodes of a cluster share, and its id: the one that is
// in use, or the one with the given id unless that is empty. The error is
// fs.ErrNotExist if there is none with the id.
type Keys func(ctx context.Context, id string) (known string, key []byte, err error)

// Keyed is a [Storage] that authenticates what it stores where others may write.
// UseKeys is called before Open, Identity and String. Of says whose the keys are:
// storages with the same text get the same keys.
type Keyed interface {
	Storage
	UseKeys(of string, keys Keys)
}
