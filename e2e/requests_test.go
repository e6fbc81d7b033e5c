//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"
)

// TestUpstreamRequests lists the requests that upstream receives for a docker pull
// of an image with six layers: of one that is not in the cache, of one that is, and
// of one whose tag upstream must be asked about again.
func TestUpstreamRequests(t *testing.T) {
	img := lab.push.index(t, "library/six-layers", "1", 1<<20, 2<<20, 1<<10, 3<<20, 1<<20, 5<<20)
	body := func(freshFor string) string {
		return lab.accounts() + standardGroups + upstreamBlock("docker.io", plainEndpoint, "fresh_for "+freshFor)
	}
	p := startProxy(t, body("1h"))
	c := loggedIn(t, p)
	root := "/v2/" + img.repository
	head := "HEAD " + root + "/manifests/1"
	cold := []string{head, "GET " + root + "/manifests/" + img.digest.String(), "GET " + root + "/manifests/" + img.manifest.String()}
	for _, blob := range img.blobs() {
		cold = append(cold, "GET "+root+"/blobs/"+blob)
	}
	for _, step := range []struct {
		name, freshFor string
		want           []string
	}{
		{"not in the cache", "1h", cold},
		{"fresh", "1h", nil},
		{"no longer fresh", "1ms", []string{head}},
	} {
		p.mustReload(t, body(step.freshFor))
		lab.plain.forget()
		dockerPull(t, c, p.reference("acme", img), img)
		got := lab.plain.list()
		t.Logf("%s: %d requests\n%s", step.name, len(got), strings.Join(got, "\n"))
		if len(got) > 0 && len(step.want) > 0 && got[0] != step.want[0] {
			t.Errorf("%s: the first request is %s, want %s", step.name, got[0], step.want[0])
		}
		slices.Sort(got)
		slices.Sort(step.want)
		if !slices.Equal(got, step.want) {
			t.Errorf("%s: upstream was asked\n%s\nwant\n%s", step.name, strings.Join(got, "\n"), strings.Join(step.want, "\n"))
		}
	}
}

// list returns the recorded requests, with the Range of those
// that have one.
func (f *front) list() (list []string) {
	for _, r := range f.requests() {
		line := r.method + " " + r.path
		if r.span != "" {
			line += " Range: " + r.span
		}
		list = append(list, line)
	}
	return list
}
