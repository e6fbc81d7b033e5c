//go:build e2e

package e2e

import (
	"regexp"
	"strings"
	"testing"
)

// TestConformance runs the conformance tests of the distribution specification
// against an existing image, with pushing and deleting off.
func TestConformance(t *testing.T) {
	img := lab.push.index(t, "library/conformance", "1", 1<<20)
	lab.push.single(t, "library/conformance", "2", 1<<10)
	c := newClient(t,
		"OCI_RESULTS_DIR="+t.TempDir(), "OCI_REGISTRY="+proxyName, "OCI_TLS=enabled",
		"OCI_REPO1=acme/dependency_proxy/containers/"+shortName(img),
		"OCI_USERNAME=alice", "OCI_PASSWORD="+password,
		"OCI_API_PUSH=false", "OCI_API_BLOBS_DELETE=false",
		"OCI_API_MANIFESTS_DELETE=false", "OCI_API_TAGS_DELETE=false",
		"OCI_RO_DATA_TAGS=1 2", "OCI_RO_DATA_MANIFESTS="+img.digest.String()+" "+img.manifest.String(),
		"OCI_RO_DATA_BLOBS="+strings.Join(img.blobs(), " "), "OCI_RO_DATA_REFERRERS="+img.manifest.String(),
	)
	// The exit code is not usable: the program fails on its own results file.
	out, _ := runFor(patience, c.env, "conformance")
	for _, line := range []string{`OCI Conformance Result: Pass`, `FAIL\.+: +0`, `Error\.+: +0`, `Pass\.+: +[1-9]\d`} {
		if !regexp.MustCompile(line).MatchString(out) {
			t.Errorf("no line like %q in:\n%s", line, out)
		}
	}
}
