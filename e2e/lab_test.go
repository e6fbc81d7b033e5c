//go:build e2e

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// lab is shared by all tests.
var lab *laboratory

// laboratory is the running stack: upstream registries, an ACME server, Docker
// Engine, containerd, and the proxy that most tests use.
type laboratory struct {
	dir       string
	caddy     string
	previous  string // the Caddy to upgrade from
	single    string // the last Caddy without clusters
	authority *authority
	roots     *x509.CertPool // what the tests' own requests trust
	hashes    map[string]string
	processes []*process

	push                         pusher
	plain, token, hub, auth, cdn *front
	main                         *proxy
	engine                       *process
}

// password is the password of all accounts.
const password = "correct-horse"

var accounts = []string{"alice", "bob", "carol"}

// newLab starts the stack. If it fails, it also returns the laboratory, so that the
// caller can stop what has been started.
func newLab(dir string) (*laboratory, error) {
	l := &laboratory{dir: dir, caddy: os.Getenv(caddyVar), previous: os.Getenv(previousVar), single: os.Getenv(singleVar), hashes: map[string]string{}}
	l.push = pusher{"http://" + plainRegistry}
	for _, step := range []func() error{
		l.startACME, l.startUpstream, l.hashPasswords, l.startMain, l.startEngines,
	} {
		if err := step(); err != nil {
			return l, err
		}
	}
	return l, nil
}

func (l *laboratory) stop() {
	for i := len(l.processes) - 1; i >= 0; i-- {
		l.processes[i].stop()
	}
	for _, f := range []*front{l.plain, l.token, l.hub, l.auth, l.cdn} {
		if f != nil {
			f.stop()
		}
	}
}

// start starts a server that runs until the laboratory is stopped.
func (l *laboratory) start(name string, env []string, argv ...string) (*process, error) {
	p, err := startProcess(filepath.Join(l.dir, name), name, env, argv...)
	if err == nil {
		l.processes = append(l.processes, p)
	}
	return p, err
}

const pebbleConfig = `{"pebble": {
	"listenAddress": "127.0.0.1:14000",
	"managementListenAddress": "127.0.0.1:15000",
	"certificate": %q,
	"privateKey": %q,
	"httpPort": 80,
	"tlsPort": 443,
	"profiles": {"default": {"description": "default", "validityPeriod": 86400}}
}}`

// startACME starts pebble. Pebble validates names for real: it resolves them with
// the hosts file and connects to the proxy on ports 80 and 443. All clients then
// trust pebble's root and the tests' own authority.
func (l *laboratory) startACME() (err error) {
	if l.authority, err = newAuthority(); err != nil {
		return err
	}
	cert, key, err := l.authority.issueFiles(l.dir, "127.0.0.1")
	if err != nil {
		return err
	}
	config := filepath.Join(l.dir, "pebble.json")
	if err := os.WriteFile(config, fmt.Appendf(nil, pebbleConfig, cert, key), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(l.authorityFile(), l.authority.pem(), 0o644); err != nil {
		return err
	}
	p, err := l.start("pebble", plainEnv(l.dir, "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0"),
		"pebble", "-config", config)
	if err != nil {
		return err
	}
	return p.ready(l.trustRoots)
}

func (l *laboratory) authorityFile() string { return filepath.Join(l.dir, "authority.crt") }

func (l *laboratory) trustRoots() error {
	l.roots = x509.NewCertPool()
	l.roots.AddCert(l.authority.cert)
	answer, err := l.client().Get("https://127.0.0.1:15000/roots/0")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	root, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if !l.roots.AppendCertsFromPEM(root) {
		return errors.New("pebble's root is no certificate")
	}
	return os.WriteFile(trustBundle, append(l.authority.pem(), root...), 0o644)
}

// client is used for the tests' own requests. It does not reuse connections, so
// each request uses the current certificate and configuration.
func (l *laboratory) client() *http.Client {
	return &http.Client{
		Timeout: time.Minute,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: l.roots},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// hashPasswords computes hashes of the lowest cost, to keep the tests fast.
func (l *laboratory) hashPasswords() error {
	for _, account := range accounts {
		out, err := runFor(time.Minute, plainEnv(l.dir),
			l.caddy, "hash-password", "--plaintext", password, "--bcrypt-cost", "4")
		if err != nil {
			return fmt.Errorf("caddy hash-password: %w: %s", err, out)
		}
		l.hashes[account] = strings.TrimSpace(out)
	}
	return nil
}

// startEngines starts Docker Engine and two versions of containerd for the tests.
func (l *laboratory) startEngines() (err error) {
	folder := filepath.Join(l.dir, "docker")
	if l.engine, err = startEngine(folder, l.dockerHost()); err != nil {
		return err
	}
	l.processes = append(l.processes, l.engine)
	for _, ctr := range []string{"ctr", "ctr2"} {
		if err := l.startContainerd(ctr); err != nil {
			return err
		}
	}
	return l.engine.ready(commandWorks("docker", "--host", l.dockerHost(), "info"))
}

// startEngine starts a Docker Engine with all that it writes in a folder.
func startEngine(folder, host string, more ...string) (*process, error) {
	return startProcess(folder, "dockerd", plainEnv(folder), append([]string{"dockerd",
		"--host", host, "--data-root", folder + "/data", "--exec-root", folder + "/exec",
		"--pidfile", folder + "/pid", "--iptables=false", "--ip6tables=false", "--bridge=none"}, more...)...)
}

// containerd2Config lets containerd 2 unpack images with the snapshotter that works
// on each file system.
const containerd2Config = `version = 3
disabled_plugins = ["io.containerd.cri.v1.runtime"]

[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "` + platform + `"
snapshotter = "native"
`

// startContainerd starts the containerd of the command ctr or ctr2, which is
// Debian's, or containerd 2.
func (l *laboratory) startContainerd(ctr string) error {
	name, text := "containerd", "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"
	if ctr == "ctr2" {
		name, text = "containerd2", containerd2Config
	}
	config := filepath.Join(l.dir, name+".toml")
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	own := filepath.Join(l.dir, name)
	p, err := l.start(name, plainEnv(own), name, "--config", config,
		"--root", own+"/root", "--state", own+"/state", "--address", l.containerdAddress(ctr))
	if err != nil {
		return err
	}
	return p.ready(commandWorks(ctr, "--address", l.containerdAddress(ctr), "version"))
}

func (l *laboratory) dockerHost() string { return "unix://" + l.dir + "/docker.sock" }

// containerdAddress returns the socket of the containerd of the command ctr or ctr2.
func (l *laboratory) containerdAddress(ctr string) string { return l.dir + "/" + ctr + ".sock" }

func commandWorks(argv ...string) func() error {
	return func() error {
		out, err := runFor(10*time.Second, plainEnv(os.TempDir()), argv...)
		if err != nil {
			return fmt.Errorf("%s: %w: %s", argv[0], err, out)
		}
		return nil
	}
}
