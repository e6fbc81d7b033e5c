// Package leaktest fails a package's tests if they leave goroutines, open files or
// large buffers behind. A package calls it from its TestMain:
//
//	func TestMain(m *testing.M) { leaktest.Main(m) }
package leaktest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/buffer"
)

// patience is how long goroutines and files that are about to end may take.
const patience = 5 * time.Second

// Main runs the tests of a package and exits.
func Main(m *testing.M) {
	flag.Parse()
	goroutines, files := runtime.NumGoroutine(), OpenFiles()
	code := m.Run()
	if fuzzing := flag.Lookup("test.fuzz").Value.String() != ""; code == 0 && !fuzzing {
		if leak := leaked(goroutines, files); leak != "" {
			fmt.Fprintln(os.Stderr, leak)
			code = 1
		}
	}
	os.Exit(code)
}

func leaked(goroutines int, files map[string]int) (leak string) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		leak = ""
		if n := runtime.NumGoroutine(); n > goroutines {
			stacks := make([]byte, 1<<20)
			leak = fmt.Sprintf("got %d goroutines, want %d:\n%s", n, goroutines, stacks[:runtime.Stack(stacks, true)])
		}
		for name, n := range OpenFiles() {
			if n > files[name] {
				leak += fmt.Sprintf("\nstill open: %s", name)
			}
		}
		if n := buffer.LargeInUse(); n != 0 {
			leak += fmt.Sprintf("\ngot %d large buffers in use, want 0", n)
		}
		if leak == "" {
			return ""
		}
	}
	return leak
}

// OpenFiles counts the open file descriptors by what they stand for, where /proc
// tells. It leaves out the runtime's own.
func OpenFiles() map[string]int {
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
