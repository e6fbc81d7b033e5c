//go:build e2e

package e2e

import (
	"net/http"
	"strings"
	"testing"
)

// TestPushIsRefused verifies that a push is refused with a message.
func TestPushIsRefused(t *testing.T) {
	img := lab.push.single(t, "library/pushed", "1", 1<<20)
	c := newClient(t)
	c.run(t, "docker", "login", "-u", "alice", "-p", password, proxyName)
	target := proxyName + "/acme/dependency_proxy/containers/mine:1"

	c.run(t, "docker", "pull", lab.main.reference("acme", img))
	c.run(t, "docker", "tag", lab.main.reference("acme", img), target)
	defer c.run(t, "docker", "rmi", target, lab.main.reference("acme", img))
	for _, push := range [][]string{
		{"docker", "push", target},
		{"crane", "copy", lab.main.reference("acme", img), target},
		{"skopeo", "copy", "docker://" + lab.main.reference("acme", img), "docker://" + target},
	} {
		out := strings.ToLower(c.refuses(t, push...))
		if !strings.Contains(out, "unsupported") && !strings.Contains(out, "405") {
			t.Errorf("%v says %q", push, out)
		}
	}

	for method, path := range map[string]string{
		http.MethodPost:   "/v2/acme/dependency_proxy/containers/mine/blobs/uploads/",
		http.MethodPut:    manifestPath("acme", "mine", "1"),
		http.MethodPatch:  "/v2/acme/dependency_proxy/containers/mine/blobs/uploads/x",
		http.MethodDelete: manifestPath("acme", shortName(img), img.digest.String()),
	} {
		request, err := http.NewRequest(method, "https://"+proxyName+path, strings.NewReader("{}"))
		must(t, err)
		request.Header.Set("Authorization", "Bearer "+lab.main.login(t, "alice"))
		send(t, request).want(t, http.StatusMethodNotAllowed, "UNSUPPORTED")
	}
}
