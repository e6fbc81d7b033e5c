package sitetest

import (
	"encoding/base64"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/porttest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// Site is a Caddy that runs in this process with one site on the loopback.
// There is one at a time, so tests with a site must not be parallel.
type Site struct {
	T       testing.TB   // the test that it runs for
	URL     string       // without a slash at the end
	Host    string       // with the port
	Dir     string       // everything that Caddy writes
	Cache   string       // the cache directory in Dir
	Globals string       // more global options
	Limits  string       // more lines of the storage
	Bucket  string       // lines of the storage s3, if that is used
	Before  string       // a directive before dependency_proxy
	After   string       // more sites
	Admin   string       // the admin endpoint's address, or off
	Stdin   string       // of commands
	Client  *http.Client // of a site with a certificate
	Running bool         // whether Caddy runs the site

	mu      sync.Mutex
	Secrets []string // which no log may contain
}

// Start runs Caddy with a site whose directive has the given lines and a
// storage, which is removed after the test.
func Start(t testing.TB, lines ...string) *Site {
	t.Helper()
	s := NewSite(t)
	s.Load(lines...)
	return s
}

// NewSite returns a site that is not running yet.
func NewSite(t testing.TB) *Site {
	t.Helper()
	s := &Site{T: t, Dir: t.TempDir(), Host: porttest.Reserve(t), Admin: "off"}
	s.URL, s.Cache = "http://"+s.Host, filepath.Join(s.Dir, "cache")
	s.AddSecrets(UpstreamPassword, registrytest.Signature+"=")
	for _, name := range []string{"alice", "bob", "carol", "dave"} {
		s.AddSecrets(PasswordOf(name), base64.StdEncoding.EncodeToString([]byte(name+":"+PasswordOf(name))))
	}
	t.Cleanup(func() {
		s.Stop()
		s.checkLogs()
	})
	return s
}

// Load makes Caddy run a configuration, by a reload if it is already running.
func (s *Site) Load(lines ...string) {
	s.T.Helper()
	if err := s.TryLoad(lines...); err != nil {
		s.T.Fatal(err)
	}
}

// TryLoad loads a configuration and returns the error.
func (s *Site) TryLoad(lines ...string) error {
	config, err := s.Adapt(lines...)
	if err == nil {
		err = LoadCaddy(s.T, config)
	}
	s.Running = s.Running || err == nil
	return err
}

// loading is locked while Caddy loads a configuration.
var loading sync.RWMutex

// LoadCaddy makes Caddy run a configuration. All tests load configurations by it.
// Connectors wait meanwhile, because Caddy's handshakes have data races with the start of
// its TLS app.
//
// Caddy returns before the former configuration, or one that is rejected, has stopped
// listening. Until then both accept connections, and those that the closing socket has not
// yet accepted are reset. LoadCaddy waits until this is over at all addresses, which can be
// observed on Linux only.
func LoadCaddy(t testing.TB, config []byte) error {
	t.Helper()
	loading.Lock()
	defer loading.Unlock()
	err := caddy.Load(config, true)
	Eventually(t, "only one configuration listens", func() bool { return !listeningTwice(t) })
	if err == nil {
		awaitAdmin(t, config)
	}
	// A connection that the former configuration is about to close would fail the next
	// request that cannot be repeated.
	Client.CloseIdleConnections()
	return err
}

// PortOf returns the port of a host with its port.
func PortOf(host string) string {
	_, port, _ := net.SplitHostPort(host)
	return port
}

// Repeats reports whether a request that has failed with err is sent again, because
// [LoadCaddy] cannot wait for the former configuration here, and one of its sockets has
// closed the connection.
func Repeats(tries int, err error) bool {
	return runtime.GOOS != "linux" && tries < 5 && err != nil &&
		(strings.HasSuffix(err.Error(), "EOF") || strings.HasSuffix(err.Error(), "connection reset by peer"))
}

// Adapt returns the JSON of the whole configuration.
func (s *Site) Adapt(lines ...string) ([]byte, error) {
	storage := "storage filesystem $CACHE {\nreserve off\n$LIMITS\n}"
	if s.Bucket != "" {
		storage = "storage s3 {\n$BUCKET\nlocal $CACHE {\nreserve off\n$LIMITS\n}\n}"
	}
	storage = strings.NewReplacer("$CACHE", s.Cache, "$LIMITS", s.Limits, "$BUCKET", s.Bucket).Replace(storage)
	text := strings.NewReplacer("$DIR", s.Dir, "$PORT", PortOf(s.Host), "$STORAGE", storage, "$GLOBALS", s.Globals, "$ADMIN", s.Admin,
		"$BEFORE", s.Before, "$AFTER", s.After, "$LINES", strings.Join(lines, "\n")).Replace(`{
	admin $ADMIN
	persist_config off
	auto_https off
	storage file_system $DIR/storage
	storage_check off
	storage_clean_interval off
	log {
		output file $DIR/caddy.log
		level DEBUG
	}
	$GLOBALS
}
http://:$PORT {
	bind 127.0.0.1
	log
	$BEFORE
	dependency_proxy {
		$STORAGE
		$LINES
	}
	respond "next handler"
}
$AFTER
`)
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
	return config, err
}

// Stop stops Caddy and checks that nothing of the site is left.
func (s *Site) Stop() {
	if !s.Running {
		return
	}
	s.Running = false
	if err := caddy.Stop(); err != nil {
		s.T.Error(err)
	}
	Eventually(s.T, "fills end", func() bool {
		files, err := os.ReadDir(filepath.Join(s.Cache, "tmp"))
		return err != nil || len(files) == 0
	})
	if held := pool.Held(); held != 0 {
		s.T.Errorf("got %d shared values held after Caddy has stopped, want none", held)
	}
}

// Restart stops Caddy and starts it with the same directories.
func (s *Site) Restart(lines ...string) {
	s.T.Helper()
	s.Stop()
	s.Load(lines...)
}

// AddSecrets adds values that no log may contain.
func (s *Site) AddSecrets(values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Secrets = append(s.Secrets, values...)
}

// Logs returns the whole log.
func (s *Site) Logs() string {
	content, err := os.ReadFile(filepath.Join(s.Dir, "caddy.log"))
	if err != nil && !os.IsNotExist(err) {
		s.T.Error(err)
	}
	return string(content)
}

var upstreamToken = regexp.MustCompile(`token-[A-Z2-7]{26}`)

// checkLogs checks that the log contains no secret.
func (s *Site) checkLogs() {
	logs := s.Logs()
	for _, secret := range s.Secrets {
		if i := strings.Index(logs, secret); i >= 0 {
			s.T.Errorf("got a secret in the log, want none: %.400s", logs[max(0, i-200):])
		}
	}
	if found := upstreamToken.FindString(logs); found != "" {
		s.T.Errorf("got a token of an upstream in the log, want none: %s", found)
	}
}

// Validate does the same as `caddy validate`.
func (s *Site) Validate(lines ...string) error {
	config, err := s.Adapt(lines...)
	if err != nil {
		return err
	}
	var parsed caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &parsed); err != nil {
		return err
	}
	return caddy.Validate(&parsed)
}

// KeyPrefix is the folder of the signing keys in Caddy's storage.
const KeyPrefix = "dependency_proxy/keys"

// KeyFiles returns the names of the files with signing keys.
func (s *Site) KeyFiles() []string {
	s.T.Helper()
	keys, err := filepath.Glob(filepath.Join(s.Dir, "storage", KeyPrefix, "*"))
	if err != nil {
		s.T.Fatal(err)
	}
	return keys
}
