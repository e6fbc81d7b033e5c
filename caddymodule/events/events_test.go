package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(new(testSites))
	caddy.RegisterModule(new(testHandler))
}

func TestMain(m *testing.M) {
	home, err := os.MkdirTemp("", "caddy-home-")
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		_ = os.Setenv(name, home)
	}
	code := m.Run()
	_ = os.RemoveAll(home)
	os.Exit(code)
}

const source = Source("test")

// testSites is an app with an emitter for each of its sites.
type testSites struct {
	Sites []string `json:"sites"`
	Early bool     `json:"early"` // publish in Provision
	Fail  bool     `json:"fail"`  // do not start

	emitters []*Emitter
}

func (*testSites) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "test_sites", New: func() caddy.Module { return new(testSites) }}
}

func (s *testSites) Provision(ctx caddy.Context) error {
	for _, site := range s.Sites {
		e, err := New(ctx, Config{Site: site, HasQuota: func(group string) bool { return group == site }})
		if err != nil {
			return err
		}
		e.Subscribe(source, map[string]any{"added": "x"})
		e.Subscribe(source, nil) // ignored
		s.emitters = append(s.emitters, e)
	}
	if s.Early {
		Publish(source, "early", map[string]any{})
	}
	return nil
}

func (s *testSites) Start() error {
	if s.Fail {
		return errors.New("told to fail")
	}
	return nil
}

func (s *testSites) Stop() error { return nil }

func (s *testSites) Cleanup() error {
	for _, e := range s.emitters {
		e.Close()
	}
	return nil
}

// testHandler is an event handler that waits and panics on demand.
type testHandler struct {
	As string `json:"as"`
}

var (
	handledMu sync.Mutex
	handled   []string
	gate      = make(chan struct{})
	reached   = make(chan struct{}, 1)
)

func (*testHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test", New: func() caddy.Module { return new(testHandler) }}
}

func (h *testHandler) Handle(_ context.Context, e caddy.Event) error {
	switch e.Name() {
	case "panic":
		panic("a handler's bug")
	case "wait":
		reached <- struct{}{}
		<-gate
	case "started", "stopping":
		return nil
	}
	handledMu.Lock()
	defer handledMu.Unlock()
	handled = append(handled, fmt.Sprint(h.As, " ", e.Name(), " ", e.Data["site"], " ", e.Data["added"]))
	e.Data["site"] = "changed by a handler"
	return nil
}

// load makes Caddy run some sites, whose events a handler receives.
func load(t *testing.T, as string, sites testSites) {
	t.Helper()
	if err := tryLoad(as, sites); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = caddy.Stop()
		handled = nil
	})
}

func tryLoad(as string, sites testSites) error {
	config, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"disabled": true, "config": map[string]any{"persist": false}},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"writer": map[string]any{"output": "discard"}}}},
		"apps": map[string]any{
			"test_sites": sites,
			"events":     map[string]any{"subscriptions": []any{map[string]any{"handlers": []any{map[string]any{"handler": "test", "as": as}}}}},
		},
	})
	if err != nil {
		return err
	}
	return caddy.Load(config, true)
}

// expect waits for events in any order.
func expect(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	var got []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		handledMu.Lock()
		got = slices.Sorted(slices.Values(handled))
		handledMu.Unlock()
		if slices.Equal(got, want) {
			return
		}
	}
	t.Fatalf("got events %q, want %q", got, want)
}

// TestPublish checks that each site emits an event once, with data of its own, and
// only those that are about it.
func TestPublish(t *testing.T) {
	load(t, "one", testSites{Sites: []string{"a", "b", "b"}})
	data := map[string]any{"key": "value"}
	Publish(source, "all", data)
	Publish("another source", "all", data)
	expect(t, "one all a x", "one all b x", "one all b x")
	if len(data) != 1 {
		t.Errorf("got data %v after Publish, want it as it was", data)
	}
	Publish(source, "about a", map[string]any{"site": "a"})
	Publish(source, QuotaTrimmed, map[string]any{"group": "a"})
	expect(t, "one all a x", "one all b x", "one all b x", "one about a a x", "one "+QuotaTrimmed+" a x")
}

// TestPublishOverReload checks that the configuration that runs emits an event, and no
// other one.
func TestPublishOverReload(t *testing.T) {
	Publish(source, "before", nil) // before there is a subscriber
	load(t, "one", testSites{Sites: []string{"a"}})
	Publish(source, "first", map[string]any{})
	expect(t, "one first a x")
	load(t, "two", testSites{Sites: []string{"a", "b"}})
	Publish(source, "second", map[string]any{})
	expect(t, "one first a x", "two second a x", "two second b x")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if len(subscriptions) != 0 {
		t.Errorf("got %d subscriptions after the end of the last configuration, want none", len(subscriptions))
	}
}

// TestPublishBeforeStart checks that an event that happens while a configuration is
// being provisioned waits until Caddy has started it. If Caddy rejects it, the running
// configuration emits the event or, without one, the event is dropped and counted.
func TestPublishBeforeStart(t *testing.T) {
	before := Dropped()
	if err := tryLoad("rejected", testSites{Sites: []string{"a"}, Early: true, Fail: true}); err == nil {
		t.Fatal("got no error for an app that does not start, want one")
	}
	if got := Dropped() - before; got != 1 {
		t.Errorf("got %d dropped events, want 1", got)
	}
	load(t, "one", testSites{Sites: []string{"a"}, Early: true})
	expect(t, "one early a x")
	if err := tryLoad("rejected", testSites{Sites: []string{"a"}, Early: true, Fail: true}); err == nil {
		t.Fatal("got no error for an app that does not start, want one")
	}
	expect(t, "one early a x", "one early a x")
}

// TestPublishDoesNotWait checks that a slow handler delays no publisher, that a bounded
// number of events waits for it, that the others are counted, and that a panic ends
// neither the process nor the emitter.
func TestPublishDoesNotWait(t *testing.T) {
	load(t, "one", testSites{Sites: []string{"a"}})
	before := Dropped()
	Publish(source, "panic", map[string]any{})
	Publish(source, "wait", map[string]any{})
	<-reached
	want := []string{"one wait a x"}
	for range queueSize {
		Publish(source, "queued", map[string]any{})
		want = append(want, "one queued a x")
	}
	for range 3 {
		Publish(source, "too many", map[string]any{})
	}
	if got := Dropped() - before; got != 3 {
		t.Errorf("got %d dropped events, want 3", got)
	}
	gate <- struct{}{}
	expect(t, want...)
}

// TestCloseDropsWhatWaits checks that the end of a configuration does not wait for its
// handlers, and that the events that they have not got are counted.
func TestCloseDropsWhatWaits(t *testing.T) {
	load(t, "one", testSites{Sites: []string{"a"}})
	before := Dropped()
	Publish(source, "wait", map[string]any{})
	<-reached
	Publish(source, "queued", map[string]any{})
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	Publish(source, "late", map[string]any{})
	gate <- struct{}{}
	expect(t, "one wait a x")
	for deadline := time.Now().Add(10 * time.Second); Dropped()-before != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %d dropped events, want 1", Dropped()-before)
		}
	}
}
