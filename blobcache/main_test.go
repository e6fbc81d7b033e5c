package blobcache_test

import (
	"fmt"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/buffer"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/leaktest"
)

// TestMain fails the package if its tests leave goroutines, files or large
// buffers behind.
func TestMain(m *testing.M) {
	leaktest.Main(m, func() string {
		if n := buffer.LargeInUse(); n != 0 {
			return fmt.Sprintf("\ngot %d large buffers in use, want 0", n)
		}
		return ""
	})
}
