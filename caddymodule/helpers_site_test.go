package caddymodule

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

// site is a Caddy that runs in this process with one site on the loopback.
// There is one at a time, so tests with a site must not be parallel.
type site struct {
	t       testing.TB
	url     string       // without a slash at the end
	host    string       // with the port
	dir     string       // everything that Caddy writes
	cache   string       // the cache directory in dir
	globals string       // more global options
	limits  string       // more lines of the storage
	bucket  string       // lines of the storage s3, if that is used
	before  string       // a directive before dependency_proxy
	after   string       // more sites
	admin   string       // the admin endpoint's address, or off
	stdin   string       // of commands
	client  *http.Client // of a site with a certificate
	running bool

	mu      sync.Mutex
	secrets []string // which no log may contain
}

// start runs Caddy with a site whose directive has the given lines and a
// storage, which is removed after the test.
func start(t testing.TB, lines ...string) *site {
	t.Helper()
	s := newSite(t)
	s.load(lines...)
	return s
}

// newSite returns a site that is not running yet.
func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), host: porttest.Reserve(t), admin: "off"}
	s.url, s.cache = "http://"+s.host, filepath.Join(s.dir, "cache")
	s.addSecrets(upstreamPassword, registrytest.Signature+"=")
	for _, name := range []string{"alice", "bob", "carol", "dave"} {
		s.addSecrets(passwordOf(name), base64.StdEncoding.EncodeToString([]byte(name+":"+passwordOf(name))))
	}
	t.Cleanup(func() {
		s.stop()
		s.checkLogs()
	})
	return s
}

// load makes Caddy run a configuration, by a reload if it is already running.
func (s *site) load(lines ...string) {
	s.t.Helper()
	if err := s.tryLoad(lines...); err != nil {
		s.t.Fatal(err)
	}
}

// tryLoad loads a configuration and returns the error.
func (s *site) tryLoad(lines ...string) error {
	config, err := s.adapt(lines...)
	if err == nil {
		err = loadCaddy(s.t, config)
	}
	s.running = s.running || err == nil
	return err
}

// loading is locked while Caddy loads a configuration.
var loading sync.RWMutex

// loadCaddy makes Caddy run a configuration. All tests load configurations by it.
// Connectors wait meanwhile, because Caddy's handshakes have data races with the start of
// its TLS app.
//
// Caddy returns before the former configuration, or one that is rejected, has stopped to
// listen. Until then both accept connections, and those that the closing socket has not yet
// accepted are reset. loadCaddy waits for that, at all addresses. It can be observed on
// Linux only.
func loadCaddy(t testing.TB, config []byte) error {
	t.Helper()
	loading.Lock()
	defer loading.Unlock()
	err := caddy.Load(config, true)
	eventually(t, "only one configuration listens", func() bool { return !listeningTwice(t) })
	// A connection that the former configuration is about to close would fail the next
	// request that cannot be repeated.
	client.CloseIdleConnections()
	return err
}

func portOf(host string) string {
	_, port, _ := net.SplitHostPort(host)
	return port
}

// repeats reports whether a request is sent again that has failed with err: loadCaddy cannot
// wait for the former configuration, and one of its sockets has closed the connection.
func repeats(tries int, err error) bool {
	return runtime.GOOS != "linux" && tries < 5 && err != nil &&
		(strings.HasSuffix(err.Error(), "EOF") || strings.HasSuffix(err.Error(), "connection reset by peer"))
}

// adapt returns the JSON of the whole configuration.
func (s *site) adapt(lines ...string) ([]byte, error) {
	storage := "storage filesystem $CACHE {\nreserve off\n$LIMITS\n}"
	if s.bucket != "" {
		storage = "storage s3 {\n$BUCKET\nlocal $CACHE {\nreserve off\n$LIMITS\n}\n}"
	}
	storage = strings.NewReplacer("$CACHE", s.cache, "$LIMITS", s.limits, "$BUCKET", s.bucket).Replace(storage)
	text := strings.NewReplacer("$DIR", s.dir, "$PORT", portOf(s.host), "$STORAGE", storage, "$GLOBALS", s.globals, "$ADMIN", s.admin,
		"$BEFORE", s.before, "$AFTER", s.after, "$LINES", strings.Join(lines, "\n")).Replace(`{
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

// stop stops Caddy and checks that nothing of the site is left.
func (s *site) stop() {
	if !s.running {
		return
	}
	s.running = false
	if err := caddy.Stop(); err != nil {
		s.t.Error(err)
	}
	eventually(s.t, "fills end", func() bool {
		files, err := os.ReadDir(filepath.Join(s.cache, "tmp"))
		return err != nil || len(files) == 0
	})
	if held := pool.Held(); held != 0 {
		s.t.Errorf("got %d shared values held after Caddy has stopped, want none", held)
	}
}

// restart stops Caddy and starts it with the same directories.
func (s *site) restart(lines ...string) {
	s.t.Helper()
	s.stop()
	s.load(lines...)
}

// addSecrets adds values that no log may contain.
func (s *site) addSecrets(values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets = append(s.secrets, values...)
}

// logs returns the whole log.
func (s *site) logs() string {
	content, err := os.ReadFile(filepath.Join(s.dir, "caddy.log"))
	if err != nil && !os.IsNotExist(err) {
		s.t.Error(err)
	}
	return string(content)
}

var upstreamToken = regexp.MustCompile(`token-[A-Z2-7]{26}`)

// checkLogs checks that the log contains no secret.
func (s *site) checkLogs() {
	logs := s.logs()
	for _, secret := range s.secrets {
		if i := strings.Index(logs, secret); i >= 0 {
			s.t.Errorf("got a secret in the log, want none: %.400s", logs[max(0, i-200):])
		}
	}
	if found := upstreamToken.FindString(logs); found != "" {
		s.t.Errorf("got a token of an upstream in the log, want none: %s", found)
	}
}

// validate does the same as `caddy validate`.
func (s *site) validate(lines ...string) error {
	config, err := s.adapt(lines...)
	if err != nil {
		return err
	}
	var parsed caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &parsed); err != nil {
		return err
	}
	return caddy.Validate(&parsed)
}

// keyFiles returns the names of the files with signing keys.
func (s *site) keyFiles() []string {
	s.t.Helper()
	keys, err := filepath.Glob(filepath.Join(s.dir, "storage", keyPrefix, "*"))
	if err != nil {
		s.t.Fatal(err)
	}
	return keys
}
