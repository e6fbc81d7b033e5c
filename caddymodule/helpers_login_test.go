package caddymodule

import (
	"context"
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
)

// desk is where logins are checked without a Caddy around, by a clock that a test
// advances.
type loginTest struct {
	*Handler
	t       *testing.T
	audited *observer.ObservedLogs
}

// newDesk is to be called in a bubble of synctest.
func newLoginTest(t *testing.T, directories ...directory.Directory) *loginTest {
	core, audited := observer.New(zapcore.DebugLevel)
	h := &Handler{accounts: access.NewAccounts(access.Config{Blocked: []string{"blocked"}}), logger: zap.NewNop(), audit: zap.New(core)}
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
		synctest.Wait() // until the last check has seen this queue
		password.DefaultQueue = before
	})
	return &loginTest{h, t, audited}
}

// limit lets no more than so many logins be checked at once.
func (d *loginTest) limit(checks int) {
	d.gate = &access.Gate{Accounts: d.accounts, Throttle: access.NewThrottle(access.Times{Failed: time.Second, Checked: time.Second}, checks)}
}

// answered is the answer to a login, and how long after its arrival it came.
type loginAnswer struct {
	status  int
	took    time.Duration
	message string
}

func (d *loginTest) login(name, password, address string) loginAnswer {
	ctx := context.WithValue(context.Background(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: address})
	ex := &exchange{h: d.Handler, r: httptest.NewRequestWithContext(ctx, http.MethodGet, "/jwt/auth", nil), route: route{kind: authKind}}
	began := time.Now()
	_, err := ex.login(name, password)
	if err == nil {
		return loginAnswer{200, time.Since(began), ""}
	}
	return loginAnswer{err.status, time.Since(began), err.message}
}

// expect logs in and checks when which answer comes.
func (d *loginTest) expect(what string, got loginAnswer, status int, took time.Duration) {
	d.t.Helper()
	if got.status != status || got.took != took {
		d.t.Errorf("%s: got %d after %s, want %d after %s", what, got.status, got.took, status, took)
	}
}

// slowHash is a comparer that takes its time.
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

// slowHashes has the slowHash of each test.
var slowHashes sync.Map

// slowModule is a module of http.authentication.hashes that is a slowHash.
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

func staticWithSlowHash(t *testing.T, h *slowHash, names ...string) *static.Directory {
	t.Helper()
	slowHashes.Store(t.Name(), h)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	d := &static.Directory{HashRaw: caddyconfig.JSONModuleObject(slowModule{t.Name()}, "algorithm", "slow", nil)}
	for _, name := range names {
		d.Users = append(d.Users, &static.User{Name: name, Hash: "of " + name + " in " + t.Name()})
	}
	if err := d.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return d
}

// remote is a directory at a server that answers one question at a time.
type remoteDirectory struct {
	takes time.Duration
	slot  chan struct{}
	says  func(directory.Login) error
	heard []string
}

func newRemoteDirectory(takes time.Duration, says func(directory.Login) error) *remoteDirectory {
	return &remoteDirectory{takes: takes, slot: make(chan struct{}, 1), says: says}
}

// knows is a directory that knows one name and no password of it.
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

// spray tries one password with names at once, each from an address of its own, and
// counts the answers.
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

// useQueue sets the queue of the process.
func setPasswordQueue(q *password.Queue) (restore func()) {
	before := password.DefaultQueue
	password.DefaultQueue = q
	return func() { password.DefaultQueue = before }
}
