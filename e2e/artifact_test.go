//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestHelm pulls a chart that helm has pushed to upstream, by its version and by the
// newest one in the list of tags.
func TestHelm(t *testing.T) {
	c := newClient(t)
	chart := filepath.Join(c.home, "demo")
	must(t, os.MkdirAll(filepath.Join(chart, "templates"), 0o755))
	must(t, os.WriteFile(filepath.Join(chart, "values.yaml"), []byte("replicas: 1\n"), 0o644))
	var pushed string
	for _, version := range []string{"0.1.0", "0.2.0"} {
		text := "apiVersion: v2\nname: demo\nversion: " + version + "\n"
		must(t, os.WriteFile(filepath.Join(chart, "Chart.yaml"), []byte(text), 0o644))
		c.run(t, "helm", "package", chart, "--destination", c.home)
		pushed = filepath.Join(c.home, "demo-"+version+".tgz")
		c.run(t, "helm", "push", pushed, "oci://"+plainRegistry+"/charts", "--plain-http")
	}
	c.run(t, "helm", "registry", "login", "-u", "alice", "-p", password, proxyName)
	reference := "oci://" + proxyName + "/acme/dependency_proxy/containers/charts/demo"
	for name, flags := range map[string][]string{"version": {"--version", "0.2.0"}, "range": {"--version", ">=0.1.0"}, "newest": nil} {
		folder := t.TempDir()
		c.run(t, append([]string{"helm", "pull", reference, "--destination", folder}, flags...)...)
		same(t, sumOf(t, filepath.Join(folder, "demo-0.2.0.tgz")), sumOf(t, pushed))
		if t.Failed() {
			t.Errorf("by %s", name)
		}
	}
	lab.plain.forget()
	c.run(t, "helm", "show", "chart", reference, "--version", "0.2.0")
	lab.plain.wantNoBlobs(t)
}

func sumOf(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	must(t, err)
	return digest.FromBytes(content).String()
}

// TestCosign verifies the signature of an image through the proxy, as a bundle that
// is found by the referrers of the image and as a tag beside it, and refuses an image
// that is not signed.
func TestCosign(t *testing.T) {
	c := newClient(t, "COSIGN_PASSWORD=")
	key := filepath.Join(c.home, "key")
	c.run(t, "cosign", "generate-key-pair", "--output-key-prefix", key)
	c.run(t, "cosign", "login", "-u", "alice", "-p", password, proxyName)
	for name, format := range map[string]string{"bundle": "--new-bundle-format=true", "tag": "--new-bundle-format=false"} {
		t.Run(name, func(t *testing.T) {
			img := lab.push.index(t, "library/signed-"+name, "1", 1<<10)
			c.run(t, "cosign", "sign", "--key", key+".key", format, "--use-signing-config=false", "--tlog-upload=false",
				"--allow-http-registry", "--yes", plainRegistry+"/"+img.repository+"@"+img.digest.String())
			verify := []string{"cosign", "verify", "--key", key + ".pub", format, "--insecure-ignore-tlog"}
			out := c.run(t, append(verify, lab.main.reference("acme", img))...)
			if !strings.Contains(out, img.digest.String()) {
				t.Errorf("cosign says %s, want the digest %s", out, img.digest)
			}
			other := lab.push.single(t, "library/unsigned-"+name, "1", 1<<10)
			c.refuses(t, append(verify, lab.main.reference("acme", other))...)
		})
	}
}
