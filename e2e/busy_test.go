//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// TestDockerRetriesWhenBusy has Docker request more downloads at once than the
// upstream's limit. Docker is refused with 503 and succeeds when it retries.
func TestDockerRetriesWhenBusy(t *testing.T) {
	img := lab.push.single(t, "library/busy", "1", 4<<20, 4<<20, 4<<20)
	p := startProxy(t, lab.accounts()+standardGroups+upstreamBlock("docker.io", plainEndpoint, "downloads {\n max 1\n}"))
	c := loggedIn(t, p)
	lab.plain.forget()
	lab.plain.rate.Store(4 << 20)
	defer lab.plain.rate.Store(0)
	dockerPull(t, c, p.reference("acme", img), img)
	lab.plain.wantOnce(t, img.blobs())
	if !strings.Contains(p.output(), "too many downloads are under way") {
		t.Error("no download was refused")
	}
}
