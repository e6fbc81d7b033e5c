package blobcache_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
)

// TestMain fails the package if its tests leave goroutines, files or large
// buffers behind.
func TestMain(m *testing.M) {
	flag.Parse()
	goroutines, files := runtime.NumGoroutine(), openFiles()
	code := m.Run()
	if fuzzing := flag.Lookup("test.fuzz").Value.String() != ""; code == 0 && !fuzzing {
		if leak := leaked(goroutines, files); leak != "" {
			fmt.Fprintln(os.Stderr, leak)
			code = 1
		}
	}
	os.Exit(code)
}

// leaked gives what is on its way out some time to go.
func leaked(goroutines int, files map[string]int) (leak string) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		leak = ""
		if n := runtime.NumGoroutine(); n > goroutines {
			stacks := make([]byte, 1<<20)
			leak = fmt.Sprintf("%d goroutines instead of %d:\n%s", n, goroutines, stacks[:runtime.Stack(stacks, true)])
		}
		if n := blobcache.LargeBuffers(); n != 0 {
			leak += fmt.Sprintf("\n%d large buffers are in use", n)
		}
		for name, n := range openFiles() {
			if n > files[name] {
				leak += fmt.Sprintf("\nstill open: %s", name)
			}
		}
		if leak == "" {
			return ""
		}
	}
	return leak
}

// openFiles counts the open file descriptors by what they stand for, where
// /proc tells. The runtime's own are left out.
func openFiles() map[string]int {
	files := make(map[string]int)
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, entry := range entries {
		name, err := os.Readlink(filepath.Join("/proc/self/fd", entry.Name()))
		if err == nil && !strings.HasPrefix(name, "anon_inode:") && !strings.HasSuffix(name, "/fd") {
			files[name]++
		}
	}
	return files
}
