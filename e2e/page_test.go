//go:build e2e

package e2e

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"image/png"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// picturesVar names a folder in which to keep the screenshots.
const picturesVar = "DEPENDENCY_PROXY_E2E_PICTURES"

// TestGroupPage opens the page of a group in a browser as a maintainer. It shows
// what clients have pulled, the used part of the quota and the traffic, in light and
// dark mode. A member sees how to pull, and an admin the page of the site.
func TestGroupPage(t *testing.T) {
	first := lab.push.index(t, "library/alpine", "3.20", 3<<20)
	second := lab.push.single(t, "team/tools/a-long-name-for-an-image-of-many-words", "2026.11.24-build.1234", 2<<20)
	purged := lab.push.single(t, "library/page-purged", "1", 1<<10)
	p := startProxy(t, roles("quota 16MiB")+"group acme/platform {\n\tmembers alice\n}\nadmins carol\n"+upstreamBlock("ghcr.io", plainEndpoint))
	c := loggedIn(t, p)
	dockerPull(t, c, p.reference("acme", first), first)
	dockerPull(t, c, p.reference("acme/platform", second), second)
	dockerPull(t, c, p.reference("acme", purged), purged)
	// Usage is otherwise measured some time after the start.
	p.ask(t, "bob", http.MethodDelete, "/acme/dependency_proxy/cache?image="+shortName(purged), "").want(t, http.StatusAccepted, "")
	seen := p.awaitOverview(t, "bob", "acme", func(o overview) bool { return len(o.Images) == 2 })
	if seen.Usage.Quota != 16<<20 || seen.Usage.Bytes < 5<<20 || seen.Usage.Bytes > 6<<20 {
		t.Errorf("the usage is %+v", seen.Usage)
	}

	p.shows(t, "bob", "/acme/dependency_proxy", []string{
		"<h1>acme</h1>", "private group", "docker login " + p.host, "<th scope=\"row\">ghcr.io</th>", "of 16 MiB", "<rect class=\"served\"", "<rect class=\"fetched\"",
		p.reference("acme", first), p.reference("acme/platform", second), first.digest.String(), "subgroups included",
	}, []string{shortName(purged)})
	p.shows(t, "alice", "/acme/dependency_proxy", []string{"<h1>acme</h1>", "access: member", "docker login " + p.host}, []string{"3.20", "of 16 MiB", "<rect"})
	p.shows(t, "alice", "/dependency_proxy", []string{"href=\"/acme/dependency_proxy\"", "href=\"/acme/platform/dependency_proxy\""}, []string{"Upstreams"})
	p.shows(t, "carol", "/dependency_proxy", []string{"href=\"/acme/dependency_proxy\"", "ghcr.io", "no limit known", "16 MiB", "Used part of the storage", "<rect class=\"served\"", "directory static"}, nil)
	p.shows(t, "alice", "/none/dependency_proxy", []string{"DENIED"}, nil)

	const group, site = "/acme/dependency_proxy", "/dependency_proxy"
	day := p.picture(t, "bob", group, "day", "--blink-settings=preferredColorScheme=1")
	night := p.picture(t, "bob", group, "night", "--blink-settings=preferredColorScheme=0")
	p.picture(t, "bob", group, "narrow", "--blink-settings=preferredColorScheme=1", "--window-size=500,1800")
	siteDay := p.picture(t, "carol", site, "site-day", "--blink-settings=preferredColorScheme=1")
	siteNight := p.picture(t, "carol", site, "site-night", "--blink-settings=preferredColorScheme=0", "--window-size=500,1800")
	p.picture(t, "alice", group, "member", "--blink-settings=preferredColorScheme=1")
	if day < 0xe000 || night > 0x3000 || siteDay < 0xe000 || siteNight > 0x3000 {
		t.Errorf("the background's brightness is %#x and %#x by day, %#x and %#x by night", day, siteDay, night, siteNight)
	}
}

// shows checks what a page shows in a browser, and what it does not. The browser
// reports on its console what the policy of the page has blocked.
func (p *proxy) shows(t *testing.T, account, path string, wanted, unwanted []string) {
	t.Helper()
	page := p.browse(t, account, path, "--dump-dom", "--enable-logging=stderr")
	for _, text := range wanted {
		if !strings.Contains(page, text) {
			t.Errorf("%s as %s sees it lacks %q:\n%s", path, account, text, page)
		}
	}
	for _, text := range append(unwanted, "Content Security Policy", "Refused to") {
		if strings.Contains(page, text) {
			t.Errorf("%s as %s sees it has %q:\n%s", path, account, text, page)
		}
	}
}

// browse opens a page in headless Chromium, logged in as account, and returns what
// Chromium prints.
func (p *proxy) browse(t *testing.T, account, path string, flags ...string) string {
	t.Helper()
	page := url.URL{Scheme: "https", User: url.UserPassword(account, password), Host: p.host, Path: path}
	argv := append([]string{"chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
		"--user-data-dir=" + t.TempDir(), "--ignore-certificate-errors-spki-list=" + p.keyHash(t)}, flags...)
	out, err := runFor(patience, plainEnv(t.TempDir()), append(argv, page.String())...)
	if err != nil {
		t.Fatalf("chromium: %v\n%s", err, out)
	}
	return out
}

// picture takes a screenshot of a page as an account sees it and returns the brightness
// of its background.
func (p *proxy) picture(t *testing.T, account, path, name string, flags ...string) uint32 {
	t.Helper()
	folder := os.Getenv(picturesVar)
	if folder == "" {
		folder = t.TempDir()
	}
	shot := filepath.Join(folder, name+".png")
	out := p.browse(t, account, path, append([]string{"--window-size=1000,1800", "--screenshot=" + shot}, flags...)...)
	file, err := os.Open(shot)
	if err != nil {
		t.Fatalf("chromium took no picture: %v\n%s", err, out)
	}
	defer file.Close()
	taken, err := png.Decode(file)
	must(t, err)
	r, g, b, _ := taken.At(2, 2).RGBA()
	return (r + g + b) / 3
}

// keyHash returns the hash of the proxy's public key in the form that Chromium
// accepts. Chromium uses neither the system's roots nor a file.
func (p *proxy) keyHash(t *testing.T) string {
	t.Helper()
	conn, err := tls.Dial("tcp", p.host, &tls.Config{RootCAs: p.roots})
	must(t, err)
	defer conn.Close()
	sum := sha256.Sum256(conn.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}
