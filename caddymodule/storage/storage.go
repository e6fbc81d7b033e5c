package storage

import (
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// Storage is a module of the namespace http.dependency_proxy.storage.
type Storage interface {
	// Open opens the storage. It is called once for all configurations with the
	// same identity. The results outlive the configuration, so they must call
	// logger for each message.
	Open(logger func() *zap.Logger) (store.Blobs, store.Records, error)

	// Limits returns the limits of the cache in the storage.
	Limits() blobcache.Limits

	// Identity returns a text that is equal for configurations that may share
	// the results of Open: those with the same location and settings.
	Identity() string

	// String describes the location, for messages.
	String() string
}
