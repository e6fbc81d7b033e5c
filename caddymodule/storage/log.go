package storage

import (
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// LogHooks returns hooks that log the events of a cache. They call logger for each
// event, because a cache outlives configurations.
func LogHooks(logger func() *zap.Logger) blobcache.Hooks {
	return blobcache.Hooks{
		FillDone: func(d digest.Digest, size int64, took time.Duration, err error) {
			logFill(logger(), d, size, took, err)
		},
		Joined: func(d digest.Digest) {
			logger().Debug("request follows a fetch under way", zap.String("digest", d.String()))
		},
		Resumed: func(d digest.Digest, offset int64, err error) {
			logger().Debug("upstream closed the connection; resuming the fetch",
				zap.String("digest", d.String()), zap.Int64("offset", offset), zap.Error(err))
		},
		Abandoned: func(d digest.Digest, written, size int64, goesOn bool) {
			logger().Debug("the last reader of a fetch under way has left", zap.String("digest", d.String()),
				zap.Int64("fetched", written), zap.Int64("size", size), zap.Bool("goes_on", goesOn))
		},
		Evicted: func(e store.Entry, why blobcache.Reason, left int64) {
			log, message := logger().Debug, "blob evicted"
			if why == blobcache.ReasonLost {
				log, message = logger().Warn, "blob evicted that is not in the bucket, because the disk is full; check why the bucket fails, or enlarge the disk"
			}
			log(message, zap.String("digest", e.Digest.String()),
				zap.Int64("size", e.Size), zap.Time("used", e.Used), zap.String("reason", string(why)), zap.Int64("stored", left))
		},
		Healed: func(d digest.Digest, why error) {
			logger().Warn("stored blob was damaged and is dropped; the next pull fetches it again",
				zap.String("digest", d.String()), zap.Error(why))
		},
		Scrubbed: func(s blobcache.Scrubbing) {
			logger().Info("stored blobs were checked", zap.Int("checked", s.Checked), zap.Int64("size", s.Bytes),
				zap.Int("damaged", s.Damaged), zap.Int("healed", s.Healed), zap.Duration("duration", s.Took))
		},
		Trimmed: func(group string, links int, size int64) {
			logger().Info("group was over its quota", zap.String("group", group),
				zap.Int("evicted", links), zap.Int64("size", size))
		},
		StorageError: logTrouble(logger),
	}
}

func logFill(logger *zap.Logger, d digest.Digest, size int64, took time.Duration, err error) {
	fields := []zap.Field{zap.String("digest", d.String()), zap.Int64("size", size), zap.Duration("duration", took)}
	switch {
	case errors.Is(err, fill.ErrAbandoned):
		logger.Debug("blob was not cached", append(fields, zap.Error(err))...)
	case err != nil:
		logger.Warn("blob was not cached", append(fields, zap.Error(err))...)
	default:
		logger.Debug("blob cached", fields...)
	}
}

// logTrouble returns a hook that logs failed operations on a storage.
func logTrouble(logger func() *zap.Logger) func(op string, err error) {
	return func(op string, err error) {
		logger().Warn("cache storage error; pulls continue", zap.String("operation", op), zap.Error(err))
	}
}
