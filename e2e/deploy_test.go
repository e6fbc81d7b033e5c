//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestContainer builds the image of deploy/Containerfile on a base that has a shell,
// wget and certificates, runs it with the configurations of compose.yaml and of
// kubernetes.yaml, waits for the health check, pulls through it and stops it. Of the
// configurations, only the upstream is changed, to that of the tests.
func TestContainer(t *testing.T) {
	c := newClient(t)
	storage := storageFlags(t)
	buildImage(t, c, storage)
	kubernetes := configOfKubernetes(t)
	compose, err := os.ReadFile("../deploy/Caddyfile")
	must(t, err)
	img := lab.push.index(t, "library/container", "1", 1<<20)
	for _, row := range []struct{ name, config, users, host string }{
		{"compose", string(compose), "/run/secrets/users", "localhost:8443"},
		{"kubernetes", kubernetes, "/run/secrets/dependency-proxy/users", "localhost:8080"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			config := strings.Replace(row.config, "dependency_proxy {", "dependency_proxy {\n"+upstreamBlock("docker.io", plainEndpoint), 1)
			must(t, os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(config), 0o644))
			must(t, os.WriteFile(filepath.Join(dir, "users"), []byte("alice:"+lab.hashes["alice"]+"\n"), 0o644))
			podman := append([]string{"podman"}, storage...)
			container, err := startProcess(dir, "container", c.env, append(podman, "run", "--rm", "--name", row.name, "--network", "host",
				"--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--healthcheck-interval", "disable",
				"-v", dir+"/Caddyfile:/etc/caddy/Caddyfile:ro", "-v", dir+"/users:"+row.users+":ro", "dependency-proxy")...)
			must(t, err)
			t.Cleanup(container.stop)
			container.showOnFailure(t)
			must(t, container.ready(func() error {
				out, err := runFor(patience, c.env, append(podman, "healthcheck", "run", row.name)...)
				if err != nil {
					return fmt.Errorf("health check: %w: %s", err, out)
				}
				return nil
			}))
			c.run(t, "skopeo", "login", "--tls-verify=false", "-u", "alice", "-p", password, row.host)
			folder := t.TempDir()
			c.run(t, "skopeo", "copy", "--src-tls-verify=false", fmt.Sprintf("docker://%s/acme/dependency_proxy/containers/container:%s", row.host, img.tag), "dir:"+folder)
			stored := c.run(t, append(podman, "exec", row.name, "/bin/sh", "-c", "echo /data/dependency_proxy/blobs/sha256/*/*")...)
			for _, blob := range img.blobs() {
				if hex := strings.TrimPrefix(blob, "sha256:"); !strings.Contains(stored, hex) {
					t.Errorf("the volume has %s, want %s", stored, hex)
				}
			}
			// Load balancers are told before it stops.
			must(t, container.cmd.Process.Signal(syscall.SIGTERM))
			must(t, container.ready(func() error {
				answer, err := http.Get("http://127.0.0.1:8080/dependency_proxy/health?ready")
				if err != nil {
					return err
				}
				_ = answer.Body.Close()
				if answer.StatusCode != http.StatusServiceUnavailable {
					return fmt.Errorf("got the status %s", answer.Status)
				}
				return nil
			}))
		})
	}
}

// buildImage builds the image in a storage of podman and buildah.
func buildImage(t *testing.T, c *client, storage []string) {
	t.Helper()
	buildah := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(c.run(t, append(append([]string{"buildah"}, storage...), args...)...))
	}
	base := buildah("from", "scratch")
	for _, applet := range []string{"sh", "wget", "mkdir", "chown"} {
		buildah("copy", base, "/bin/busybox", "/bin/"+applet)
	}
	buildah("copy", base, trustBundle, trustBundle)
	buildah("commit", base, "localhost/base")
	context := t.TempDir()
	command(t, "cp", lab.caddy, context+"/caddy")
	buildah("build", "--isolation", "chroot", "--format", "docker", "--build-arg", "BASE=localhost/base", "-t", "dependency-proxy", "-f", "../deploy/Containerfile", context)
}

// configOfKubernetes returns the Caddyfile of the ConfigMap.
func configOfKubernetes(t *testing.T) string {
	t.Helper()
	manifests, err := os.ReadFile("../deploy/kubernetes.yaml")
	must(t, err)
	_, rest, _ := strings.Cut(string(manifests), "\n  Caddyfile: |\n")
	config, _, ok := strings.Cut(rest, "\n---\n")
	if !ok {
		t.Fatal("deploy/kubernetes.yaml has no Caddyfile")
	}
	return strings.ReplaceAll("\n"+config, "\n    ", "\n")[1:] + "\n"
}
