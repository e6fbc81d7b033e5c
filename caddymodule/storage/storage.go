package storage

import (
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// Storage is a guest module in the namespace http.dependency_proxy.storage: a
// place for cached content and for the records of what may be served to whom.
type Storage interface {
	// Open is called once for all configurations with the same identity. What it
	// returns outlives the configuration, so the logger is asked for each time.
	Open(logger func() *zap.Logger) (store.Blobs, store.Records, error)

	// Limits are what is kept in the place.
	Limits() blobcache.Limits

	// Identity is equal for two configurations that may share what Open
	// returns: the same place with the same settings.
	Identity() string

	// String names the place for people.
	String() string
}
