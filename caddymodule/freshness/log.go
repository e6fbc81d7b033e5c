package freshness

import (
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
)

// logInterval is the time between two log lines about the stale answers of an upstream
// for the same reason. Each tag has a stale answer during an outage.
const logInterval = time.Minute

// maxLogged is the number of upstreams and reasons that are remembered. A
// configuration has fewer.
const maxLogged = 1024

// LogStale returns a function for [pullthrough.Hooks.Stale] that logs one stale answer
// a minute for each upstream and reason.
func LogStale(logger *zap.Logger) func(scope, tag string, err error) {
	type key struct {
		upstream string
		reason   pullthrough.Reason
	}
	var mu sync.Mutex
	last := make(map[key]time.Time)
	due := func(k key) bool {
		mu.Lock()
		defer mu.Unlock()
		at, known := last[k]
		if known && time.Since(at) < logInterval || !known && len(last) >= maxLogged {
			return false
		}
		last[k] = time.Now()
		return true
	}
	return func(scope, tag string, err error) {
		reason := pullthrough.ReasonOf(err)
		_, upstream, _ := strings.Cut(scope, "/_/")
		upstream, _, _ = strings.Cut(upstream, "/")
		if !due(key{upstream, reason}) {
			return
		}
		level := zapcore.WarnLevel
		if reason == pullthrough.Slow {
			level = zapcore.InfoLevel
		}
		logger.Log(level, "an upstream has not confirmed a tag; serving the cached manifest (at most one such line a minute for an upstream and a reason)",
			zap.String("repository", scope), zap.String("tag", tag), zap.String("reason", string(reason)), zap.Error(err))
	}
}

// LogHooks returns hooks that log failures in spite of which a pull succeeds.
func LogHooks(logger *zap.Logger) pullthrough.Hooks {
	return pullthrough.Hooks{
		Stale: LogStale(logger),
		RecordFailed: func(scope string, err error) {
			logger.Warn("cannot record the content of a repository; pulls continue",
				zap.String("repository", scope), zap.Error(err))
		},
	}
}
