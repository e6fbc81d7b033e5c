//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// puller pulls an image with a client that does not have it yet and verifies the
// result.
type puller struct {
	client string
	login  []string
	pull   func(t *testing.T, c *client, reference string, img image)
}

const platform = "linux/" + runtime.GOARCH

var pullers = []puller{
	{"docker", []string{"docker", "login"}, dockerPull},
	{"podman", []string{"podman", "login"}, podmanPull},
	{"buildah", []string{"buildah", "login"}, buildahPull},
	{"skopeo", []string{"skopeo", "login"}, skopeoPull},
	{"crane", []string{"crane", "auth", "login"}, cranePull},
	{"regctl", []string{"regctl", "registry", "login"}, regctlPull},
	{"oras", []string{"oras", "login"}, orasPull},
	{"ctr", nil, containerdPull("ctr")},
	{"ctr2", nil, containerdPull("ctr2")},
}

// TestPull pulls with each client: an index and a single image by tag, and one by
// digest. The first pull requests each blob from upstream once, the second does
// not request any.
func TestPull(t *testing.T) {
	for _, p := range pullers {
		t.Run(p.client, func(t *testing.T) {
			c := p.loggedInto(t, proxyName)
			lab.engine.showOnFailure(t)
			repository := "library/pull-" + p.client
			index := lab.push.index(t, repository, "index", 1<<20, 3<<20)
			single := lab.push.single(t, repository, "single", 1<<20)
			other := lab.push.single(t, repository, "other", 1<<10)
			byTag, byDigest := lab.main.reference, func(group string, img image) string {
				return lab.main.name(group, img) + "@" + img.digest.String()
			}
			t.Run("index by tag", func(t *testing.T) { p.twice(t, c, byTag("acme", index), index) })
			t.Run("single by tag", func(t *testing.T) { p.twice(t, c, byTag("acme", single), single) })
			t.Run("single by digest", func(t *testing.T) { p.twice(t, c, byDigest("acme", other), other) })
		})
	}
}

// loggedInto returns a client that has logged in to a host as alice, unless its pulls do
// so.
func (p puller) loggedInto(t *testing.T, host string) *client {
	t.Helper()
	c := newClient(t)
	if p.login != nil {
		c.run(t, append(append([]string(nil), p.login...), "-u", "alice", "-p", password, host)...)
	}
	return c
}

func (p puller) twice(t *testing.T, c *client, reference string, img image) {
	lab.plain.forget()
	p.pull(t, c, reference, img)
	lab.plain.wantOnce(t, img.blobsFor(p.client))
	lab.plain.forget()
	p.pull(t, c, reference, img)
	lab.plain.wantNoBlobs(t)
}

func dockerPull(t *testing.T, c *client, reference string, img image) {
	t.Helper()
	c.run(t, "docker", "pull", reference)
	defer c.run(t, "docker", "rmi", reference)
	same(t, c.run(t, "docker", "image", "inspect", "--format", "{{.Id}}", reference), img.config.String())
	digests := c.run(t, "docker", "image", "inspect", "--format", "{{.RepoDigests}}", reference)
	if !strings.Contains(digests, img.digest.String()) {
		t.Errorf("docker names the digests %s, want %s", digests, img.digest)
	}
}

func podmanPull(t *testing.T, c *client, reference string, img image) {
	t.Helper()
	podman := append([]string{"podman"}, storageFlags(t)...)
	c.run(t, append(podman, "pull", reference)...)
	id := c.run(t, append(podman, "image", "inspect", "--format", "{{.Id}}", reference)...)
	same(t, id, img.config.Encoded())
}

func buildahPull(t *testing.T, c *client, reference string, img image) {
	t.Helper()
	buildah := append([]string{"buildah"}, storageFlags(t)...)
	c.run(t, append(buildah, "pull", reference)...)
	id := c.run(t, append(buildah, "inspect", "--type", "image", "--format", "{{.FromImageID}}", reference)...)
	same(t, id, img.config.Encoded())
}

func skopeoPull(t *testing.T, c *client, reference string, img image) {
	t.Helper()
	folder := t.TempDir()
	c.run(t, "skopeo", "copy", "docker://"+reference, "dir:"+folder)
	manifest, err := os.ReadFile(filepath.Join(folder, "manifest.json"))
	must(t, err)
	same(t, digest.FromBytes(manifest).String(), img.manifest.String())
}

func cranePull(t *testing.T, c *client, reference string, img image) {
	t.Helper()
	folder := t.TempDir()
	c.run(t, "crane", "pull", "--platform", platform, "--format", "oci", reference, folder)
	inLayout(t, folder, img)
}

func regctlPull(t *testing.T, c *client, reference string, img image) {
	t.Helper()
	folder := t.TempDir()
	c.run(t, "regctl", "image", "copy", "--platform", platform, reference, "ocidir://"+folder+":copy")
	inLayout(t, folder, img)
}

func orasPull(t *testing.T, c *client, reference string, img image) {
	t.Helper()
	folder := t.TempDir()
	c.run(t, "oras", "copy", "--platform", platform, "--to-oci-layout", reference, folder+":copy")
	inLayout(t, folder, img)
}

// containerdPull returns a pull with the command ctr or ctr2.
func containerdPull(ctr string) func(t *testing.T, c *client, reference string, img image) {
	return func(t *testing.T, c *client, reference string, img image) {
		t.Helper()
		images := []string{ctr, "--address", lab.containerdAddress(ctr), "images"}
		c.run(t, append(images, "pull", "--snapshotter", "native", "--user", "alice:"+password, reference)...)
		defer c.run(t, append(images, "rm", "--sync", reference)...)
		inContainerd(t, c, images, reference, img)
	}
}

func inContainerd(t *testing.T, c *client, images []string, reference string, img image) {
	t.Helper()
	list := c.run(t, append(images, "ls", "name=="+reference)...)
	if !strings.Contains(list, img.digest.String()) {
		t.Errorf("containerd has\n%s\nwant %s", list, img.digest)
	}
}

// inLayout verifies that a folder in OCI layout has the image for this machine.
func inLayout(t *testing.T, folder string, img image) {
	t.Helper()
	for _, want := range append(img.blobs(), img.manifest.String()) {
		content, err := os.ReadFile(filepath.Join(folder, "blobs", strings.Replace(want, ":", "/", 1)))
		must(t, err)
		same(t, digest.FromBytes(content).String(), want)
	}
}

func same(t *testing.T, got, want string) {
	t.Helper()
	if strings.TrimSpace(got) != want {
		t.Errorf("got %s, want %s", strings.TrimSpace(got), want)
	}
}
