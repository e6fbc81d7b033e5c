//go:build e2e

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// proxy is a running Caddy with the plugin.
type proxy struct {
	*process
	dir, caddy string
	wrap       []string // what Caddy runs under, if anything
	admin      string
	host       string // as clients write it
	cache      string // folder
	storage    string // lines of the storage block
	bucket     string // lines of storage s3, or empty without a bucket
	globals    string // options, without the admin address
	sites      string // site blocks; each imports the snippet (proxy)
	roots      *x509.CertPool
}

// pageText is the text of the page beside the registry.
const pageText = "a page on the same site"

// Tests with a proxy of their own use the next pair of ports.
var nextPort atomic.Int32

// mainLocalhost is the main proxy's other name, with Caddy's internal authority.
const mainLocalhost = "localhost:8444"

// startMain starts the proxy that most tests share, with a name that has a
// certificate from ACME, and localhost with Caddy's internal authority.
func (l *laboratory) startMain() error {
	l.main = &proxy{
		dir: filepath.Join(l.dir, "main"), cache: filepath.Join(l.dir, "main", "cache"), caddy: l.caddy, roots: l.roots,
		admin: "127.0.0.1:2020", host: proxyName,
		// The other hosts of the tests have their own servers on port 443.
		globals: "skip_install_trust\n\tdefault_bind " + proxyAddr + " 127.0.0.1\n\tacme_ca https://127.0.0.1:14000/dir\n\tacme_ca_root " + l.authorityFile(),
		sites:   fmt.Sprintf("%s, %s {\n\timport proxy\n}\n", proxyName, mainLocalhost),
	}
	if err := l.main.start(l.mainBody()); err != nil {
		return err
	}
	l.processes = append(l.processes, l.main.process)
	return l.main.ready(l.main.answers)
}

// mainBody returns a configuration with one group of each kind. Tests with a proxy
// of their own start from it.
func (l *laboratory) mainBody() string {
	return l.accounts() + upstreamBlock("docker.io", plainEndpoint) + standardGroups
}

const standardGroups = `
group acme {
	members alice
}
group acme/platform {
	members bob
}
group house {
	visibility internal
}
group open {
	visibility public
}
`

func (l *laboratory) accounts() string {
	var out strings.Builder
	for _, account := range accounts {
		fmt.Fprintf(&out, "user %s %s\n", account, l.hashes[account])
	}
	return out.String()
}

// upstreamBlock declares an upstream of the tests, which has a loopback address.
func upstreamBlock(name, endpoint string, more ...string) string {
	lines := append([]string{"endpoint " + endpoint, "allow_private on"}, more...)
	return fmt.Sprintf("upstream %s {\n\t%s\n}\n", name, strings.Join(lines, "\n\t"))
}

// startProxy starts a proxy for one test, on a port of localhost, with a
// certificate that all clients trust.
func startProxy(t *testing.T, body string) *proxy {
	t.Helper()
	p := newProxy(t)
	p.launch(t, body)
	return p
}

// newProxy returns a proxy that has not been started.
func newProxy(t *testing.T) *proxy {
	t.Helper()
	n := int(nextPort.Add(2))
	host := fmt.Sprintf("localhost:%d", 9000+n)
	p := &proxy{
		dir: t.TempDir(), caddy: lab.caddy, roots: lab.roots,
		admin: fmt.Sprintf("127.0.0.1:%d", 9001+n), host: host,
		// Port 80 is used by the main proxy.
		globals: "skip_install_trust\n\tauto_https disable_redirects",
	}
	p.cache = filepath.Join(p.dir, "cache")
	cert, key, err := lab.authority.issueFiles(p.dir, "localhost")
	must(t, err)
	p.sites = fmt.Sprintf("%s {\n\ttls %s %s\n\timport proxy\n}\n", host, cert, key)
	return p
}

// launch starts the proxy, which runs until the test ends.
func (p *proxy) launch(t *testing.T, body string) {
	t.Helper()
	must(t, p.start(body))
	t.Cleanup(p.stop)
	p.showOnFailure(t)
	must(t, p.ready(p.answers))
}

func (p *proxy) config() string { return filepath.Join(p.dir, "Caddyfile") }

const caddyfile = `{
	admin %s
	%s
}
(proxy) {
	dependency_proxy {
		%s
%s
	}
	respond / %q
}
%s`

// write writes a Caddyfile with the body of its dependency_proxy block.
func (p *proxy) write(body string) error {
	text := fmt.Sprintf(caddyfile, p.admin, p.globals, p.storageBlock(), body, pageText, p.sites)
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(p.config(), []byte(text), 0o644)
}

func (p *proxy) storageBlock() string {
	if p.bucket == "" {
		return fmt.Sprintf("storage filesystem %s {\n%s\n}", p.cache, p.storage)
	}
	return fmt.Sprintf("storage s3 {\n%s\nlocal %s {\n%s\n}\n}", p.bucket, p.cache, p.storage)
}

func (p *proxy) start(body string) (err error) {
	if err := p.write(body); err != nil {
		return err
	}
	env := plainEnv(p.dir, "ROBOT_PASSWORD="+robotPassword, "WRONG_PASSWORD="+wrongPassword, "BUCKET_SECRET="+bucketSecret)
	p.process, err = startProcess(p.dir, "caddy", env,
		append(append([]string(nil), p.wrap...), p.caddy, "run", "--config", p.config(), "--adapter", "caddyfile")...)
	return err
}

// answers returns an error unless the site can be reached with a certificate that
// verifies.
func (p *proxy) answers() error {
	address := p.host
	if !strings.Contains(address, ":") {
		address += ":443"
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	conn, err := tls.DialWithDialer(dialer, "tcp", address, &tls.Config{RootCAs: p.roots})
	if err != nil {
		return err
	}
	return conn.Close()
}

// reload loads a new body with `caddy reload` and returns its output.
func (p *proxy) reload(body string) (string, error) {
	if err := p.write(body); err != nil {
		return "", err
	}
	return runFor(time.Minute, plainEnv(p.dir), p.caddy, "reload",
		"--config", p.config(), "--adapter", "caddyfile", "--address", p.admin)
}

func (p *proxy) mustReload(t *testing.T, body string) {
	t.Helper()
	if out, err := p.reload(body); err != nil {
		t.Fatalf("caddy reload: %v\n%s", err, out)
	}
}

// name returns the name of an image as a client writes it.
func (p *proxy) name(group string, img image) string {
	return fmt.Sprintf("%s/%s/dependency_proxy/containers/%s", p.host, group, shortName(img))
}

func (p *proxy) reference(group string, img image) string { return p.name(group, img) + ":" + img.tag }

// shortName returns the repository without library/.
func shortName(img image) string { return strings.TrimPrefix(img.repository, "library/") }
