//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// roles returns a configuration whose group acme has one account in each role, and
// the given lines.
func roles(lines string) string {
	return lab.accounts() + upstreamBlock("docker.io", plainEndpoint) +
		"group acme {\n\tmembers alice\n\tmaintainers bob\n\towners carol\n\t" + lines + "\n}\ngroup other {\n\tmembers alice\n}\n"
}

// ask sends a request with Basic credentials, as curl does.
func (p *proxy) ask(t *testing.T, account, method, path, body string) answer {
	t.Helper()
	request, err := http.NewRequest(method, "https://"+p.host+path, strings.NewReader(body))
	must(t, err)
	if account != "" {
		request.SetBasicAuth(account, password)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	return send(t, request)
}

// into decodes an answer that must have the status.
func (a answer) into(t *testing.T, status int, value any) {
	t.Helper()
	a.want(t, status, "")
	must(t, json.Unmarshal(a.body, value))
}

// overview is the JSON of a group's page.
type overview struct {
	Usage *struct {
		Bytes, Quota int64
		Blobs        int
	}
	Images []struct{ Name, Digest string }
}

// awaitOverview requests the page until the group has been measured and wanted
// returns true.
func (p *proxy) awaitOverview(t *testing.T, as, group string, wanted func(overview) bool) (seen overview) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		seen = overview{}
		p.ask(t, as, http.MethodGet, "/"+group+"/dependency_proxy", "").into(t, http.StatusOK, &seen)
		if seen.Usage != nil && wanted(seen) {
			return seen
		}
		if time.Now().After(deadline) {
			t.Fatalf("the group is still seen as %+v", seen)
		}
	}
}

// TestPurge verifies that after a maintainer's purge of one image, or of all
// images, the next pull asks upstream again.
func TestPurge(t *testing.T) {
	first := lab.push.single(t, "library/purged", "1", 1<<20)
	second := lab.push.single(t, "library/purged-too", "1", 1<<20)
	p := startProxy(t, roles(""))
	c := loggedIn(t, p)
	pull := func(group string, img image, wanted bool) {
		t.Helper()
		lab.plain.forget()
		dockerPull(t, c, p.reference(group, img), img)
		if wanted {
			lab.plain.wantOnce(t, img.blobs())
		} else {
			lab.plain.wantNoBlobs(t)
		}
	}
	purge := "/acme/dependency_proxy/cache"
	for _, img := range []image{first, second} {
		pull("acme", img, true)
		pull("acme", img, false)
	}
	p.ask(t, "alice", http.MethodDelete, purge, "").want(t, http.StatusForbidden, "DENIED")
	p.ask(t, "", http.MethodDelete, purge, "").want(t, http.StatusUnauthorized, "UNAUTHORIZED")
	pull("acme", first, false)

	p.ask(t, "bob", http.MethodDelete, purge+"?image="+shortName(first), "").want(t, http.StatusAccepted, "")
	p.awaitGone(t, first)
	pull("acme", second, false)
	pull("acme", first, true)

	p.ask(t, "carol", http.MethodDelete, purge, "").want(t, http.StatusAccepted, "")
	p.awaitGone(t, first, second)
	pull("acme", first, true)
	pull("acme", second, true)
}

// awaitGone waits until the content of the images is removed from disk.
func (p *proxy) awaitGone(t *testing.T, images ...image) {
	t.Helper()
	must(t, p.ready(func() error {
		for _, img := range images {
			for _, d := range append(img.layers, img.config, img.manifest) {
				if _, err := os.Lstat(storedFile(p.cache, d)); !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%s is stored: %v", d, err)
				}
			}
		}
		return nil
	}))
}

// TestQuota exceeds the quota of a group: the least recently pulled image is
// removed, and an image that is larger than the quota is served without being
// stored.
func TestQuota(t *testing.T) {
	const layer, quota = 4 << 20, 10 << 20
	images := make([]image, 3)
	for i, tag := range []string{"1", "2", "3"} {
		images[i] = lab.push.single(t, "library/quota-"+tag, tag, layer)
	}
	huge := lab.push.single(t, "library/quota-huge", "1", quota+1<<20)
	p := startProxy(t, roles("quota 10MiB"))
	c := loggedIn(t, p)
	pull := func(img image) { t.Helper(); dockerPull(t, c, p.reference("acme", img), img) }
	for _, img := range images {
		pull(img)
	}
	p.awaitGone(t, images[0])
	// During its download the third image was not yet part of what the group has.
	seen := p.awaitOverview(t, "bob", "acme", func(o overview) bool { return o.Usage.Bytes <= quota && o.Usage.Bytes >= 2*layer })
	if seen.Usage.Quota != quota {
		t.Errorf("the page tells %+v", seen.Usage)
	}
	lab.plain.forget()
	pull(images[1])
	pull(images[2])
	lab.plain.wantNoBlobs(t)
	pull(images[0])
	lab.plain.wantOnce(t, images[0].blobs())
	for range 2 {
		lab.plain.forget()
		pull(huge)
		if n := lab.plain.blobs()[huge.layers[0].String()]; n != 1 {
			t.Errorf("upstream was asked %d times for what cannot be kept", n)
		}
	}
}

// TestGroupTokenByOwner creates a token over HTTP as an owner and pulls with it
// until the owner revokes it. Members and maintainers can do neither.
func TestGroupTokenByOwner(t *testing.T) {
	img := lab.push.single(t, "library/owners-token", "1", 1<<10)
	p := startProxy(t, roles(""))
	const tokens = "/acme/dependency_proxy/tokens"
	for _, account := range []string{"alice", "bob"} {
		p.ask(t, account, http.MethodPost, tokens, `{"name": "ci"}`).want(t, http.StatusForbidden, "DENIED")
		p.ask(t, account, http.MethodGet, tokens, "").want(t, http.StatusForbidden, "DENIED")
	}
	var made struct{ ID, Token string }
	p.ask(t, "carol", http.MethodPost, tokens, `{"name": "ci", "lifetime": "24h"}`).into(t, http.StatusCreated, &made)
	c := newClient(t)
	for _, engine := range []string{"docker", "podman"} {
		c.run(t, engine, "login", "-u", "ci", "-p", made.Token, p.host)
	}
	dockerPull(t, c, p.reference("acme", img), img)
	podmanPull(t, c, p.reference("acme", img), img)
	if out := strings.ToLower(c.refuses(t, "docker", "pull", p.reference("other", img))); !strings.Contains(out, "denied") {
		t.Errorf("another group is refused with %q", out)
	}
	var list struct {
		Tokens []struct {
			ID, Name string
			Created  string `json:"created_by"`
		}
	}
	listed := p.ask(t, "carol", http.MethodGet, tokens, "")
	listed.into(t, http.StatusOK, &list)
	if len(list.Tokens) != 1 || list.Tokens[0].ID != made.ID || list.Tokens[0].Created != "static:carol" ||
		strings.Contains(string(listed.body), made.Token) {
		t.Errorf("the list is %s", listed.body)
	}
	p.ask(t, "bob", http.MethodDelete, tokens+"/"+made.ID, "").want(t, http.StatusForbidden, "DENIED")
	p.ask(t, "carol", http.MethodDelete, tokens+"/"+made.ID, "").want(t, http.StatusOK, "")
	if out := c.refuses(t, "docker", "pull", p.reference("acme", img)); !refusal.MatchString(out) {
		t.Errorf("a pull with a revoked token is refused with %q", out)
	}
	for _, engine := range []string{"docker", "podman"} {
		if out := newClient(t).refuses(t, engine, "login", "-u", "ci", "-p", made.Token, p.host); !refusal.MatchString(out) {
			t.Errorf("%s: a login with a revoked token is refused with %q", engine, out)
		}
	}
	if strings.Contains(p.output(), made.Token) {
		t.Error("the log shows the token")
	}
}
