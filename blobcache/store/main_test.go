package store_test

import (
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
