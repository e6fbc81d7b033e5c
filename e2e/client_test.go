//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// patience is for one command of a client.
const patience = 2 * time.Minute

// client is a person at a machine of their own: logins and images of one client
// are unknown to the next, but for Docker Engine and containerd, which are shared.
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
		"CONTAINERD_ADDRESS=" + lab.containerdAddress(), "CONTAINERD_NAMESPACE=default",
		"XDG_CONFIG_HOME=" + filepath.Join(home, ".config"), "XDG_DATA_HOME=" + filepath.Join(home, ".local"),
		"XDG_CACHE_HOME=" + filepath.Join(home, ".cache"), "XDG_RUNTIME_DIR=" + t.TempDir(),
	}, more...)
	// podman stumbles over a login file that is named and not there.
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

// refuses runs a command that must fail and returns what it says.
func (c *client) refuses(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := runFor(patience, c.env, argv...)
	if err == nil {
		t.Fatalf("%v succeeded:\n%s", argv, out)
	}
	return out
}

// storageFlags make podman and buildah keep what they pull in a folder of its
// own: one with a short name, of which they allow no more than 50 characters.
func storageFlags(t *testing.T) []string {
	t.Helper()
	folder, err := os.MkdirTemp("", "p")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	return []string{"--root", folder + "/root", "--runroot", folder + "/run", "--storage-driver", "vfs"}
}
