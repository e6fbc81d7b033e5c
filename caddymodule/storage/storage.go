package storage

import (
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// Storage is a guest module in the namespace http.dependency_proxy.storage: a
// place for cached content and for the records of what may be served to whom.
type Storage interface {
	// Open is called once for all configurations with the same identity. The
	// logger outlives the configuration.
	Open(logger *zap.Logger) (store.Blobs, store.Records, error)

	// Limits are what is kept in the place.
	Limits() blobcache.Limits

	// Identity is equal for two configurations that may share what Open
	// returns: the same place with the same settings.
	Identity() string

	// String names the place for people.
	String() string
}

// LogTrouble returns a hook that logs an operation on a storage that has failed.
func LogTrouble(logger *zap.Logger) func(op string, err error) {
	return func(op string, err error) {
		logger.Warn("cache storage is in trouble; pulls go on", zap.String("operation", op), zap.Error(err))
	}
}
