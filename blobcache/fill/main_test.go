package fill

import (
	"fmt"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/buffer"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/leaktest"
)

func TestMain(m *testing.M) {
	leaktest.Main(m, func() string {
		if n := buffer.LargeInUse(); n != 0 {
			return fmt.Sprintf("\n%d large buffers are in use", n)
		}
		return ""
	})
}
