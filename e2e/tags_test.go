//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestTags lists the tags of registries that name the next page by a parameter of
// their own, or refuse to send as many tags as clients ask for.
func TestTags(t *testing.T) {
	const image = "library/app"
	for name, options := range map[string][]registrytest.Option{
		"own parameters": {registrytest.WithCursors(), registrytest.WithPageSize(40)},
		"few tags":       {registrytest.WithMaxPage(100), registrytest.WithPageSize(100)},
	} {
		t.Run(name, func(t *testing.T) {
			up := registrytest.New(t, options...)
			var want []string
			for i := range 150 {
				tag := fmt.Sprintf("v%03d", i)
				up.PutImage(image, tag, []byte("x"))
				want = append(want, tag)
			}
			p := newProxy(t)
			// crane takes the scheme of localhost to be http, and compares that with
			// the one of the next page.
			host := strings.Replace(p.host, "localhost", proxyName, 1)
			cert, key, err := lab.authority.issueFiles(p.dir, proxyName)
			must(t, err)
			p.sites = fmt.Sprintf("%s {\n\ttls %s %s\n\timport proxy\n}\n%s", host, cert, key, p.sites)
			p.launch(t, lab.accounts()+standardGroups+upstreamBlock("docker.io", up.URL()))
			c := newClient(t)
			c.run(t, "crane", "auth", "login", host, "-u", "alice", "-p", password)
			reference := host + "/acme/dependency_proxy/containers/" + image
			check := func(client string, got []string) {
				t.Helper()
				if !slices.Equal(got, want) {
					t.Errorf("%s lists %q, want %q", client, got, want)
				}
			}
			check("crane", strings.Fields(c.run(t, "crane", "ls", reference)))
			var list struct{ Tags []string }
			if err := json.Unmarshal([]byte(c.run(t, "skopeo", "list-tags", "docker://"+reference)), &list); err != nil {
				t.Fatal(err)
			}
			check("skopeo", list.Tags)
			check("regctl", strings.Fields(c.run(t, "regctl", "tag", "ls", reference)))
		})
	}
}
