//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOlareg pulls from a registry of another make, with each kind of request.
func TestOlareg(t *testing.T) {
	const address, port = "127.0.0.1", "5010"
	folder := t.TempDir()
	registry, err := startProcess(folder, "olareg", plainEnv(folder), "olareg", "serve", "--addr", address, "--port", port,
		"--dir", filepath.Join(folder, "content"))
	must(t, err)
	t.Cleanup(registry.stop)
	registry.showOnFailure(t)
	push := pusher{"http://" + address + ":" + port}
	must(t, registry.ready(func() error {
		answer, err := http.Get(push.registry + "/v2/")
		if err != nil {
			return err
		}
		return answer.Body.Close()
	}))

	index := push.index(t, "team/app", "index", 1<<20, 40<<20) // one of them in several ranges
	single := push.single(t, "team/app", "single", 1<<10)
	p := startProxy(t, lab.accounts()+standardGroups+upstreamBlock("olareg.example", push.registry))
	c := loggedIn(t, p)
	dockerPull(t, c, p.reference("acme", index), index)
	skopeoPull(t, c, p.reference("acme", index), index)
	dockerPull(t, c, p.reference("acme", single), single)

	c.run(t, "oras", "attach", "--plain-http", "--artifact-type", "application/vnd.example.report", "--distribution-spec", "v1.1-referrers-api",
		address+":"+port+"/team/app@"+index.digest.String(), "--annotation", "a=b")
	out := c.run(t, "oras", "discover", "--plain-http=false", "--format", "json", p.name("acme", index)+"@"+index.digest.String())
	if !strings.Contains(out, "application/vnd.example.report") {
		t.Errorf("oras finds %s, want the report", out)
	}
	got := p.get(t, p.login(t, "alice"), "/v2/acme/dependency_proxy/containers/team/app/tags/list")
	got.want(t, http.StatusOK, "")
	var list struct{ Tags []string }
	if err := json.Unmarshal(got.body, &list); err != nil || !slices.Equal(list.Tags, []string{"index", "single"}) {
		t.Errorf("got the tags %s, want index and single", got.body)
	}
	p.get(t, p.login(t, "alice"), manifestPath("acme", "team/app", "none")).want(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	p.get(t, p.login(t, "alice"), manifestPath("acme", "team/none", "1")).want(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
}
