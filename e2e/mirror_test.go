//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// hostsFile directs a node's pulls from Docker Hub to the proxy. The server line is
// what containerd would try next; it does not answer.
const hostsFile = `server = "https://127.0.0.1:9"

[host."https://%s/v2/acme/dependency_proxy/containers"]
  capabilities = ["pull", "resolve"]
  override_path = true
%s`

// TestContainerdMirror pulls an image of Docker Hub through the proxy, with the
// login in the node's configuration and with one given to the pull.
func TestContainerdMirror(t *testing.T) {
	basic := base64.StdEncoding.EncodeToString([]byte("alice:" + password))
	header := fmt.Sprintf("  [host.\"https://%s/v2/acme/dependency_proxy/containers\".header]\n"+
		"    Authorization = \"Basic %s\"\n", proxyName, basic)
	for name, way := range map[string]struct {
		hosts string
		flags []string
	}{
		"header": {hosts: header},
		"user":   {flags: []string{"--user", "alice:" + password}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t)
			img := lab.push.index(t, "library/mirrored-"+name, "1", 1<<20)
			folder := filepath.Join(c.home, "hosts", "docker.io")
			must(t, os.MkdirAll(folder, 0o755))
			hosts := fmt.Sprintf(hostsFile, proxyName, way.hosts)
			must(t, os.WriteFile(filepath.Join(folder, "hosts.toml"), []byte(hosts), 0o644))

			reference := "docker.io/library/" + shortName(img) + ":1"
			argv := append([]string{"ctr", "images", "pull", "--snapshotter", "native",
				"--hosts-dir", filepath.Dir(folder)}, way.flags...)
			lab.plain.forget()
			c.run(t, append(argv, reference)...)
			inContainerd(t, c, reference, img)
			lab.plain.wantOnce(t, img.blobs())
			c.run(t, "ctr", "images", "rm", "--sync", reference)
		})
	}
}
