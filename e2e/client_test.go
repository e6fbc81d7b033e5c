//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// patience limits the run time of one client command.
const patience = 2 * time.Minute

// client has a home directory of its own, so logins and images of one client are
// unknown to the next. Docker Engine and containerd are shared by all clients.
type client struct {
	home string
	env  []string
}

func newClient(t *testing.T, more ...string) *client {
	t.Helper()
	home := t.TempDir()
	c := &client{home: home}
	c.env = append([]string{
		"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir(), "HOME=" + home,
		"DOCKER_HOST=" + lab.dockerHost(), "DOCKER_CONFIG=" + filepath.Join(home, ".docker"),
		"REGISTRY_AUTH_FILE=" + filepath.Join(home, "auth.json"),
		"CONTAINERD_ADDRESS=" + lab.containerdAddress("ctr"), "CONTAINERD_NAMESPACE=default",
		"XDG_CONFIG_HOME=" + filepath.Join(home, ".config"), "XDG_DATA_HOME=" + filepath.Join(home, ".local"),
		"XDG_CACHE_HOME=" + filepath.Join(home, ".cache"), "XDG_RUNTIME_DIR=" + t.TempDir(),
	}, more...)
	// podman fails if the environment names a login file that does not exist.
	must(t, os.WriteFile(filepath.Join(home, "auth.json"), []byte("{}"), 0o600))
	lab.main.showOnFailure(t)
	return c
}

// run runs a command that must succeed and returns its output.
func (c *client) run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := runFor(patience, c.env, argv...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return out
}

// refuses runs a command that must fail and returns its output.
func (c *client) refuses(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := runFor(patience, c.env, argv...)
	if err == nil {
		t.Fatalf("%v succeeded:\n%s", argv, out)
	}
	return out
}

// storageFlags returns flags that make podman and buildah use a storage folder of
// their own. The path must be short: they allow no more than 50 characters.
func storageFlags(t *testing.T) []string {
	t.Helper()
	folder, err := os.MkdirTemp("", "p")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	return []string{"--root", folder + "/root", "--runroot", folder + "/run", "--storage-driver", "vfs"}
}
