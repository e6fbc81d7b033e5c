package caddymodule

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/static"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/metrics"
)

// loginTest checks logins without a running Caddy, with the clock of a synctest
// bubble.
type loginTest struct {
	*Handler
	t       *testing.T
	audited *observer.ObservedLogs
}

// newLoginTest must be called in a synctest bubble.
func newLoginTest(t *testing.T, directories ...directory.Directory) *loginTest {
	core, audited := observer.New(zapcore.DebugLevel)
	h := &Handler{
		accounts: access.NewAccounts(access.Config{Blocked: []string{"blocked"}}), logger: zap.NewNop(), audit: zap.New(core), metered: new(metrics.Site),
	}
	h.gate = &access.Gate{Accounts: h.accounts, Throttle: access.NewThrottle(access.Times{Failed: time.Second, Checked: time.Second}, 0)}
	for _, d := range directories {
		kind := "remote"
		if _, ok := d.(*static.Directory); ok {
			kind = "static"
		}
		h.accounts.Add(kind, d)
	}
	before := password.DefaultQueue
	password.DefaultQueue = password.NewQueue(1, password.MaxWaiting, password.MaxWaiting)
	t.Cleanup(func() {
		synctest.Wait() // until the last check has used this queue
		password.DefaultQueue = before
	})
	return &loginTest{h, t, audited}
}

// limit sets the number of logins that may be checked at once.
func (d *loginTest) limit(checks int) {
	d.gate = &access.Gate{Accounts: d.accounts, Throttle: access.NewThrottle(access.Times{Failed: time.Second, Checked: time.Second}, checks)}
}

// loginAnswer is the answer to a login and the time that it took.
type loginAnswer struct {
	status  int
	took    time.Duration
	message string
}

// login checks a login from a client address.
func (d *loginTest) login(name, password, address string) loginAnswer {
	ctx := context.WithValue(context.Background(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: address})
	ex := d.begin(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/jwt/auth", nil), route{kind: authKind})
	began := time.Now()
	_, err := ex.login(name, password)
	if err == nil {
		return loginAnswer{200, time.Since(began), ""}
	}
	return loginAnswer{err.status, time.Since(began), err.message}
}

// expect checks the status of an answer and the time that it took.
func (d *loginTest) expect(what string, got loginAnswer, status int, took time.Duration) {
	d.t.Helper()
	if got.status != status || got.took != took {
		d.t.Errorf("%s: got %d after %s, want %d after %s", what, got.status, got.took, status, took)
	}
}

// slowHash is a comparer that takes a given time.
type slowHash struct {
	takes time.Duration
	right string
	n     atomic.Int32
}

func (s *slowHash) Compare(_, password []byte) (bool, error) {
	s.n.Add(1)
	time.Sleep(s.takes)
	return string(password) == s.right, nil
}

// slowHashes contains the slowHash of each test by name.
var slowHashes sync.Map

// slowModule is the module http.authentication.hashes.slow, which uses the
// slowHash of a test.
type slowModule struct {
	Test string `json:"test"`
}

func init() { caddy.RegisterModule(slowModule{}) }

func (slowModule) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.authentication.hashes.slow", New: func() caddy.Module { return new(slowModule) }}
}

func (m *slowModule) Compare(hashed, plaintext []byte) (bool, error) {
	h, _ := slowHashes.Load(m.Test)
	return h.(*slowHash).Compare(hashed, plaintext)
}

// staticWithSlowHash returns a static directory with the given accounts, whose
// hashes h compares. The hashes are new each time, because the process remembers
// the passwords that have matched one.
func staticWithSlowHash(t *testing.T, h *slowHash, names ...string) *static.Directory {
	t.Helper()
	slowHashes.Store(t.Name(), h)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	d := &static.Directory{HashRaw: caddyconfig.JSONModuleObject(slowModule{t.Name()}, "algorithm", "slow", nil)}
	for _, name := range names {
		d.Users = append(d.Users, &static.User{Name: name, Hash: "of " + name + " " + rand.Text()})
	}
	if err := d.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return d
}

// remoteDirectory is a directory at a server that answers one question at a
// time.
type remoteDirectory struct {
	takes time.Duration
	slot  chan struct{}
	says  func(directory.Login) error
	heard []string
}

// newRemoteDirectory returns a directory whose answers take some time and have
// the given error.
func newRemoteDirectory(takes time.Duration, says func(directory.Login) error) *remoteDirectory {
	return &remoteDirectory{takes: takes, slot: make(chan struct{}, 1), says: says}
}

// knowsOnly returns the answers of a directory with one account, for which each
// password is wrong.
func knowsOnly(name string) func(directory.Login) error {
	return func(login directory.Login) error {
		if login.Name == name {
			return directory.ErrWrongPassword
		}
		return directory.ErrUnknownAccount
	}
}

func (r *remoteDirectory) Authenticate(ctx context.Context, login directory.Login) (directory.Account, error) {
	select {
	case r.slot <- struct{}{}:
	case <-ctx.Done():
		return directory.Account{}, ctx.Err()
	}
	defer func() { <-r.slot }()
	time.Sleep(r.takes)
	r.heard = append(r.heard, login.Name)
	return directory.Account{Name: login.Name}, r.says(login)
}

func (r *remoteDirectory) Lookup(context.Context, string, string) (directory.Account, error) {
	return directory.Account{}, directory.ErrUnknownAccount
}

func (r *remoteDirectory) Feign(ctx context.Context, login directory.Login) error {
	if _, err := r.Authenticate(ctx, login.Unknown()); err != nil && !directory.IsRefusal(err) {
		return err
	}
	return nil
}

// loginEach tries one password with all names at once, each from its own
// address, and counts the answers by status.
func (d *loginTest) loginEach(names []string, password string) map[int]int {
	answers := make(chan loginAnswer)
	for i, name := range names {
		go func() { answers <- d.login(name, password, fmt.Sprint("198.51.100.", i)) }()
	}
	status := map[int]int{}
	for range names {
		status[(<-answers).status]++
	}
	time.Sleep(time.Minute)
	return status
}
