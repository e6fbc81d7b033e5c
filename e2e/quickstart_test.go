//go:build e2e

package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestQuickstart follows the README with a fresh tree: one command, a login, a pull.
// Nothing outside of the tree is written, except Go's caches.
func TestQuickstart(t *testing.T) {
	img := lab.push.index(t, "library/alpine", "3.20", 1<<20)
	tree := t.TempDir()
	copyTree(t, "..", tree)
	home := t.TempDir()
	cache, modules := goFolders(t)
	server, err := startProcess(tree, "xcaddy.sh", []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + t.TempDir(),
		"GOCACHE=" + cache, "GOMODCACHE=" + modules, "GOFLAGS=-buildvcs=false", "GOTOOLCHAIN=local",
		// The tests have no network, from which xcaddy would download.
		"GOPROXY=off", "GONOSUMDB=*", "XCADDY=",
		"DEPENDENCY_PROXY_UPSTREAM=" + plainEndpoint, "DEPENDENCY_PROXY_ALLOW_PRIVATE=on",
	}, "./xcaddy.sh", "run")
	must(t, err)
	t.Cleanup(server.stop)
	server.showOnFailure(t)
	// The build may take minutes on a small machine with a cold cache. docker login is
	// retried until the server answers.
	c := newClient(t)
	must(t, server.readyWithin(10*time.Minute, func() error {
		out, err := runFor(patience, c.env, "docker", "login", "-u", "demo", "-p", "demo", "localhost:8443")
		if err != nil {
			return fmt.Errorf("docker login: %w: %s", err, out)
		}
		return nil
	}))
	dockerPull(t, c, "localhost:8443/demo/dependency_proxy/containers/alpine:3.20", img)
	for _, line := range []string{"docker login localhost:8443", "docker pull localhost:8443/demo/"} {
		if !strings.Contains(server.output(), line) {
			t.Errorf("the script does not say %q", line)
		}
	}
	// Go writes its telemetry counters elsewhere in the home folder.
	for _, folder := range []string{".config/caddy", ".local", ".cache"} {
		if _, err := os.Stat(filepath.Join(home, folder)); err == nil {
			t.Errorf("%s was written into the home folder", folder)
		}
	}
}

// copyTree copies the files that a clone would contain.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	must(t, filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch name {
		case ".git", ".dependency_proxy", "caddy":
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil // as .git is in a worktree
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), data, info.Mode().Perm())
	}))
}

// goFolders returns Go's cache folders.
func goFolders(t *testing.T) (cache, modules string) {
	t.Helper()
	out, err := runFor(patience, os.Environ(), "go", "env", "GOCACHE", "GOMODCACHE")
	must(t, err)
	lines := strings.Fields(out)
	if len(lines) != 2 {
		t.Fatalf("go env says %q", out)
	}
	return lines[0], lines[1]
}
