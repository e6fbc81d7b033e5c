package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
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
type desk struct {
	*Handler
	t       *testing.T
	audited *observer.ObservedLogs
}

// newDesk is to be called in a bubble of synctest.
func newDesk(t *testing.T, directories ...directory.Directory) *desk {
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
	return &desk{h, t, audited}
}

// limit lets no more than so many logins be checked at once.
func (d *desk) limit(checks int) {
	d.gate = &access.Gate{Accounts: d.accounts, Throttle: access.NewThrottle(access.Times{Failed: time.Second, Checked: time.Second}, checks)}
}

// answered is the answer to a login, and how long after its arrival it came.
type answered struct {
	status  int
	took    time.Duration
	message string
}

func (d *desk) login(name, password, address string) answered {
	ctx := context.WithValue(context.Background(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: address})
	ex := &exchange{h: d.Handler, r: httptest.NewRequestWithContext(ctx, http.MethodGet, "/jwt/auth", nil), route: route{kind: authKind}}
	began := time.Now()
	_, err := ex.login(name, password)
	if err == nil {
		return answered{200, time.Since(began), ""}
	}
	return answered{err.status, time.Since(began), err.message}
}

// expect logs in and checks when which answer comes.
func (d *desk) expect(what string, got answered, status int, took time.Duration) {
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

func slowStatic(t *testing.T, h *slowHash, names ...string) *static.Directory {
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
type remote struct {
	takes time.Duration
	slot  chan struct{}
	says  func(directory.Login) error
	heard []string
}

func newRemote(takes time.Duration, says func(directory.Login) error) *remote {
	return &remote{takes: takes, slot: make(chan struct{}, 1), says: says}
}

// knows is a directory that knows one name and no password of it.
func knows(name string) func(directory.Login) error {
	return func(login directory.Login) error {
		if login.Name == name {
			return directory.ErrWrongPassword
		}
		return directory.ErrUnknownAccount
	}
}

func (r *remote) Authenticate(ctx context.Context, login directory.Login) (directory.Account, error) {
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

func (r *remote) Lookup(context.Context, string, string) (directory.Account, error) {
	return directory.Account{}, directory.ErrUnknownAccount
}

func (r *remote) Feign(ctx context.Context, login directory.Login) error {
	if _, err := r.Authenticate(ctx, login.Unknown()); err != nil && !directory.IsRefusal(err) {
		return err
	}
	return nil
}

// TestFailedLoginsDeadline: a failed login is answered one second after it came,
// with whatever is known then, and a right one at once. What comes of a check later
// counts and is logged, and makes the next try succeed at once.
func TestFailedLoginsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &slowHash{right: "right"}
		d := newDesk(t, slowStatic(t, h, "ann", "ben", "cleo", "blocked"))
		d.expect("a wrong password", d.login("ann", "wrong", "192.0.2.1"), 401, time.Second)
		d.expect("again", d.login("ann", "wrong", "192.0.2.1"), 401, time.Second)
		d.expect("an unknown name", d.login("nobody", "wrong", "192.0.2.1"), 401, time.Second)
		d.expect("a blocked account", d.login("blocked", "right", "192.0.2.1"), 401, time.Second)
		d.expect("no name", d.login("", "", "192.0.2.1"), 401, time.Second)
		d.expect("a right password", d.login("ann", "right", "192.0.2.1"), 200, 0)
		h.takes = 700 * time.Millisecond
		d.expect("a slow wrong one", d.login("ben", "wrong", "192.0.2.1"), 401, time.Second)
		d.expect("a slow unknown name", d.login("nobody", "wrong too", "192.0.2.1"), 401, time.Second)

		h.takes = 1100 * time.Millisecond
		for i := range documentedAccountBurst - 1 { // one guess at ben was above
			d.expect("what takes too long", d.login("ben", fmt.Sprint("guess", i), fmt.Sprint("198.51.100.", i)), 503, time.Second)
			time.Sleep(200 * time.Millisecond)
		}
		if n := d.audited.FilterField(zap.String("reason", "wrong password")).FilterField(zap.String("account", "ben")).Len(); n != documentedAccountBurst {
			t.Errorf("got %d guesses in the audit log, want %d", n, documentedAccountBurst)
		}
		d.expect("a guess too many", d.login("ben", "another", "203.0.113.1"), 429, 0)

		d.expect("a right one that takes too long", d.login("cleo", "right", "192.0.2.1"), 503, time.Second)
		time.Sleep(200 * time.Millisecond)
		d.expect("the next try", d.login("cleo", "right", "192.0.2.1"), 200, 0)
		d.expect("from elsewhere", d.login("cleo", "right", "203.0.113.2"), 200, 0)
	})
}

// TestFailedLoginsAlike: with the queue for hashes and the server of a directory
// saturated, no name is answered otherwise or at another time than others,
// whichever directory knows it.
func TestFailedLoginsAlike(t *testing.T) {
	for name, row := range map[string]struct{ hash, server time.Duration }{
		"idle":             {time.Millisecond, time.Millisecond},
		"busy with hashes": {300 * time.Millisecond, 10 * time.Millisecond},
		"a busy server":    {10 * time.Millisecond, 300 * time.Millisecond},
		"both":             {150 * time.Millisecond, 150 * time.Millisecond},
		"both hopelessly":  {2 * time.Second, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var want []answered
			for _, name := range []string{"nobody", "static", "remote", "other"} {
				synctest.Test(t, func(t *testing.T) {
					h := &slowHash{takes: row.hash}
					d := newDesk(t, slowStatic(t, h, "static"), newRemote(row.server, knows("remote")), slowStatic(t, h, "other"))
					var got []answered
					answers := make(chan answered)
					for i := range documentedAccountBurst {
						go func() { answers <- d.login(name, fmt.Sprint("guess", i), fmt.Sprint("198.51.100.", i)) }()
					}
					for range documentedAccountBurst {
						got = append(got, <-answers)
					}
					time.Sleep(time.Minute)
					slices.SortFunc(got, func(a, b answered) int { return a.status - b.status })
					if want == nil {
						want = got
					}
					if !slices.Equal(got, want) {
						t.Errorf("%s: got %v, want %v as for an unknown name", name, got, want)
					}
					if n := h.n.Load(); n != documentedAccountBurst && row.hash < time.Second { // else they give up waiting
						t.Errorf("%s: got %d hashes, want one for each of %d logins", name, n, documentedAccountBurst)
					}
				})
			}
		})
	}
}

// TestFailedLoginsCost: whichever directory has refused a login, all others are
// asked too, and one password is hashed. None of them hears the name or the
// password; and none lets anybody in.
func TestFailedLoginsCost(t *testing.T) {
	away := errors.New("away")
	always := func(err error) func(directory.Login) error { return func(directory.Login) error { return err } }
	for name, row := range map[string]struct {
		first, second func(directory.Login) error
		status        int
	}{
		"all answer":       {knows("first"), knows("second"), 401},
		"one is away":      {knows("first"), always(away), 503},
		"one is busy":      {knows("first"), always(password.ErrBusy), 503},
		"one lets them in": {knows("first"), always(nil), 401},
	} {
		t.Run(name, func(t *testing.T) {
			for _, name := range []string{"ann", "first", "nobody"} {
				synctest.Test(t, func(t *testing.T) {
					h := new(slowHash)
					first, second := newRemote(0, row.first), newRemote(0, row.second)
					d := newDesk(t, slowStatic(t, h, "ann"), first, second)
					if name == "nobody" && row.status == 401 {
						second.says = knows("second")
					}
					got := d.login(name, "wrong", "192.0.2.1")
					d.expect(name, got, row.status, time.Second)
					if len(first.heard) != 1 || len(second.heard) != 1 {
						t.Errorf("%s: the directories heard %q and %q, want one name each", name, first.heard, second.heard)
					}
					if name != "nobody" && slices.Contains(second.heard, name) {
						t.Errorf("%s: the directory behind has heard of it", name)
					}
					if n := h.n.Load(); n > 1 || row.status == 401 && n != 1 {
						t.Errorf("%s: got %d hashes, want 1", name, n)
					}
				})
			}
		})
	}
}

// TestFailedLoginsBounded: the number of checks under way is bounded, and some places
// are kept for addresses with an earlier right login.
func TestFailedLoginsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := newRemote(time.Hour, func(directory.Login) error { return nil })
		d := newDesk(t, hang)
		const places = 50 // the race detector does not bear the timers of very many
		d.limit(places)
		quick := newDesk(t, newRemote(0, func(directory.Login) error { return nil }))
		quick.gate = &access.Gate{Accounts: quick.accounts, Throttle: d.gate.Throttle}
		quick.expect("a login", quick.login("ann", "right", "192.0.2.1"), 200, 0)
		for i := range 2 * places {
			go d.login(fmt.Sprint("user", i), "x", fmt.Sprintf("10.0.%d.%d", i>>8, i&255))
		}
		synctest.Wait()
		if n := d.gate.Throttle.Checking(); n != places {
			t.Errorf("got %d checks under way, want %d", n, places)
		}
		quick.expect("a stranger", quick.login("zoe", "right", "203.0.113.1"), 503, time.Second)
		quick.expect("a colleague", quick.login("zoe", "right", "192.0.2.1"), 200, 0)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n := d.gate.Throttle.Checking(); n > 1 { // the one that holds the server
			t.Errorf("got %d checks under way after their time, want none", n)
		}
		time.Sleep(2 * time.Hour)
	})
}

// TestLoginPanics: a guest that panics fails the login and nothing else.
func TestLoginPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, newRemote(0, func(directory.Login) error { panic("a bug") }))
		d.expect("a login", d.login("ann", "x", "192.0.2.1"), 503, time.Second)
	})
}
