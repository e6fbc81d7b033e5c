//go:build e2e

package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// bigLayer at slowRate takes about eight seconds, long enough for a reload.
const (
	bigLayer = 64 << 20
	slowRate = 8 << 20
)

// TestReloadDuringPull reloads while a client downloads a blob and Docker pulls an
// image. Both finish, earlier tokens remain valid, and the cache is kept.
func TestReloadDuringPull(t *testing.T) {
	img := lab.push.single(t, "library/big", "1", bigLayer)
	p := startProxy(t, lab.mainBody())
	c := loggedIn(t, p)
	token := p.login(t, "alice")
	blob := blobPath("acme", shortName(img), img.layers[0].String())
	p.get(t, token, manifestPath("acme", shortName(img), "1")).want(t, http.StatusOK, "")

	lab.plain.forget()
	lab.plain.rate.Store(slowRate)
	defer lab.plain.rate.Store(0)
	pulled := make(chan error, 1)
	go func() {
		_, err := runFor(patience, c.env, "docker", "pull", p.reference("acme", img))
		pulled <- err
	}()
	body := p.open(t, token, blob)
	defer body.Close()
	sum := digest.SHA256.Digester()
	_, err := io.CopyN(sum.Hash(), body, 1<<20)
	must(t, err)

	p.mustReload(t, strings.Replace(lab.mainBody(), "members alice", "members alice carol", 1))
	rest, err := io.Copy(sum.Hash(), body)
	must(t, err)
	if rest == 0 || sum.Digest() != img.layers[0] {
		t.Errorf("after the reload came %d bytes, together %s, want %s", rest, sum.Digest(), img.layers[0])
	}
	if err := <-pulled; err != nil {
		t.Errorf("docker pull across the reload: %v", err)
	}
	c.run(t, "docker", "rmi", p.reference("acme", img))
	lab.plain.wantOnce(t, img.blobs())

	lab.plain.forget()
	p.get(t, token, "/v2/").want(t, http.StatusOK, "")
	if got := p.get(t, token, blob); digest.FromBytes(got.body) != img.layers[0] {
		t.Errorf("the blob after the reload: %d, %d bytes", got.status, len(got.body))
	}
	p.get(t, p.login(t, "carol"), manifestPath("acme", shortName(img), "1")).want(t, http.StatusOK, "")
	lab.plain.wantNoBlobs(t)
}

// open starts a download and returns its body.
func (p *proxy) open(t *testing.T, token, path string) io.ReadCloser {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, "https://"+p.host+path, nil)
	must(t, err)
	request.Header.Set("Authorization", "Bearer "+token)
	answer, err := lab.client().Do(request)
	must(t, err)
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", path, answer.Status, readAll(t, answer))
	}
	return answer.Body
}

// TestBrokenReload verifies that an invalid configuration changes nothing.
func TestBrokenReload(t *testing.T) {
	img := lab.push.single(t, "library/unharmed", "1", 1<<20)
	p := startProxy(t, lab.mainBody())
	token := p.login(t, "alice")
	manifest := manifestPath("acme", shortName(img), "1")
	blob := blobPath("acme", shortName(img), img.layers[0].String())
	p.get(t, token, manifest).want(t, http.StatusOK, "")
	p.get(t, token, blob).want(t, http.StatusOK, "")

	for name, broken := range map[string]string{
		"unknown line":    lab.mainBody() + "no_such_line here\n",
		"bad hash":        lab.mainBody() + "user dave not-a-hash\n",
		"upstream twice":  lab.mainBody() + upstreamBlock("docker.io", plainEndpoint),
		"missing secret":  lab.mainBody() + upstreamBlock("ghcr.io", plainEndpoint, "credentials x {file./no/such/file}"),
		"nobody may pull": upstreamBlock("docker.io", plainEndpoint),
	} {
		t.Run(name, func(t *testing.T) {
			out, err := p.reload(broken)
			if err == nil {
				t.Fatalf("the reload is taken:\n%s", out)
			}
			lab.plain.forget()
			p.get(t, token, "/v2/").want(t, http.StatusOK, "")
			p.get(t, token, manifest).want(t, http.StatusOK, "")
			p.get(t, token, blob).want(t, http.StatusOK, "")
			p.get(t, p.login(t, "alice"), manifest).want(t, http.StatusOK, "")
			lab.plain.wantNoBlobs(t)
		})
	}
}

// TestRestart verifies that the cache and the signing keys survive a restart.
func TestRestart(t *testing.T) {
	img := lab.push.single(t, "library/restarted", "1", 1<<20)
	p := startProxy(t, lab.mainBody())
	token := p.login(t, "alice")
	manifest := manifestPath("acme", shortName(img), "1")
	blob := blobPath("acme", shortName(img), img.layers[0].String())
	p.get(t, token, manifest).want(t, http.StatusOK, "")
	p.get(t, token, blob).want(t, http.StatusOK, "")

	p.stop()
	must(t, p.start(lab.mainBody()))
	t.Cleanup(p.stop)
	must(t, p.ready(p.answers))
	lab.plain.forget()
	p.get(t, token, manifest).want(t, http.StatusOK, "")
	p.get(t, token, blob).want(t, http.StatusOK, "")
	lab.plain.wantNoBlobs(t)
}
