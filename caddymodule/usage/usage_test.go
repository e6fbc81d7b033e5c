package usage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
)

// records can fail, and counts what is saved.
type records struct {
	store.Records
	fault error
	saved int
}

func (r *records) Save(ctx context.Context, key string, value []byte) error {
	if r.fault != nil {
		return r.fault
	}
	r.saved++
	return r.Records.Save(ctx, key, value)
}

// fixture is a recorder over a folder of the test, whose clock stands still.
type fixture struct {
	*Recorder
	t       *testing.T
	records *records
	clock   time.Time
	errors  []error
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	files, err := store.OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, records: &records{Records: files}, clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	f.reopen()
	return f
}

// reopen makes a new recorder over the same records, as after a restart.
func (f *fixture) reopen() {
	f.Recorder = New(f.records, index.New(f.records), func(err error) { f.errors = append(f.errors, err) })
	f.Recorder.now = func() time.Time { return f.clock }
}

// expect compares the last days of a group, which are written as "served/fetched".
func (f *fixture) expect(group string, want ...string) {
	f.t.Helper()
	var got []string
	for _, d := range f.Days(f.t.Context(), group, len(want)) {
		got = append(got, fmt.Sprintf("%d/%d", d.Served, d.Fetched))
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		f.t.Errorf("group %s: got %v, want %v", group, got, want)
	}
}

// keys returns the keys of all records.
func (f *fixture) keys() (keys []string) {
	f.t.Helper()
	if err := f.records.List(f.t.Context(), folder, func(r store.Record) error { keys = append(keys, r.Key); return nil }); err != nil {
		f.t.Fatal(err)
	}
	return keys
}

// TestRecorder checks that traffic counts for its group, the groups above it and all
// groups, that counting writes nothing, and that the records survive a restart and
// are added to.
func TestRecorder(t *testing.T) {
	f := newFixture(t)
	f.Count("acme/platform", Traffic{Served: 100})
	f.Fetched("acme/platform/_/hub@1/library/alpine", 7)
	f.Count("acme", Traffic{Served: 10})
	f.Count("acmeplus", Traffic{Served: 1})
	if f.records.saved != 0 {
		t.Errorf("got %d writes before Write, want none", f.records.saved)
	}
	check := func() {
		t.Helper()
		f.expect("acme/platform", "0/0", "100/7")
		f.expect("acme", "0/0", "110/7")
		f.expect(All, "0/0", "111/7")
		f.expect("platform", "0/0", "0/0")
	}
	check()
	f.Write(t.Context())
	check()
	if f.records.saved != 4 {
		t.Errorf("got %d writes, want one for each of four groups", f.records.saved)
	}
	f.Write(t.Context())
	f.Count("acme", Traffic{})
	f.Write(t.Context())
	if f.records.saved != 4 {
		t.Errorf("got %d writes although nothing was counted, want 4", f.records.saved)
	}
	f.reopen()
	check()
	f.clock = f.clock.Add(12 * time.Hour) // the next day
	f.Count("acme", Traffic{Served: 5})
	f.Write(t.Context())
	f.Count("acme", Traffic{Served: 5})
	f.Write(t.Context())
	f.expect("acme", "110/7", "10/0")
	if f.errors != nil {
		t.Error(f.errors)
	}
}

// TestRecorderKeep checks that the last counts are written when the recorder ends.
func TestRecorderKeep(t *testing.T) {
	f := newFixture(t)
	f.Count("acme", Traffic{Served: 5})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	f.Keep(ctx)
	f.reopen()
	f.expect("acme", "5/0")
}

// TestRecorderFailure checks that nothing is lost or counted twice while records
// cannot be written.
func TestRecorderFailure(t *testing.T) {
	f := newFixture(t)
	f.records.fault = errors.New("disk full")
	for _, group := range []string{"a", "b", "c"} {
		f.Count(group, Traffic{Served: 5})
	}
	f.Write(t.Context())
	f.Write(t.Context())
	if len(f.errors) != 2 || !errors.Is(f.errors[0], f.records.fault) {
		t.Errorf("got the errors %v, want one for each write", f.errors)
	}
	f.records.fault = nil
	f.Count("a", Traffic{Served: 1})
	f.Write(t.Context())
	f.reopen()
	f.expect("a", "6/0")
	f.expect("b", "5/0")
	f.expect(All, "16/0")
	damaged := day{"a", dayOf(f.clock)}
	if err := f.records.Save(t.Context(), damaged.key(), []byte("{")); err != nil {
		t.Fatal(err)
	}
	f.expect("a", "0/0")
	f.Count("a", Traffic{Served: 2})
	f.Write(t.Context())
	f.expect("a", "2/0")
}

// TestRecorderBounds checks that at most maxOthers groups that are not declared have
// records, also after a restart, and that the others are counted together.
func TestRecorderBounds(t *testing.T) {
	f := newFixture(t)
	f.Declare("declared")
	f.Declare("late")
	f.Count("declared", Traffic{Served: 1})
	for i := range maxOthers + 5 {
		f.Count(fmt.Sprint("g", i), Traffic{Served: 1})
	}
	f.expect(Other, "5/0")
	f.Write(t.Context())
	if n := len(f.keys()); n != maxOthers+3 {
		t.Errorf("got %d records, want %d", n, maxOthers+3)
	}
	f.reopen()
	f.Declare("declared")
	f.Declare("late")
	for _, group := range []string{"new", "late", "g0"} {
		f.Count(group, Traffic{Served: 1})
	}
	f.Write(t.Context())
	f.expect("new", "0/0")
	f.expect("late", "1/0")
	f.expect("g0", "2/0")
	f.expect(Other, "6/0")
	f.expect(All, fmt.Sprintf("%d/0", maxOthers+9))
}

// TestRecorderDeclare checks that a group is declared as long as a configuration
// declares it, also while a new one takes the place of another.
func TestRecorderDeclare(t *testing.T) {
	f := newFixture(t)
	first, second := f.Declare("acme"), f.Declare("acme")
	for i := range maxOthers {
		f.Count(fmt.Sprint("g", i), Traffic{Served: 1})
	}
	first()
	f.Count("acme", Traffic{Served: 1})
	f.expect("acme", "1/0")
	f.Write(t.Context())
	second()
	for i := range maxOthers {
		f.Count(fmt.Sprint("g", i), Traffic{Served: 1})
	}
	f.Count("acme", Traffic{Served: 1})
	f.expect("acme", "1/0")
	f.expect(Other, "1/0")
	if len(f.declared) != 0 {
		t.Errorf("got the declared groups %v, want none", f.declared)
	}
}

// TestRecorderSweep checks that records are removed after 90 days.
func TestRecorderSweep(t *testing.T) {
	f := newFixture(t)
	f.Count("old", Traffic{Served: 1})
	f.Write(t.Context())
	f.clock = f.clock.Add((keptDays - 1) * 24 * time.Hour)
	f.Write(t.Context())
	if n := len(f.keys()); n != 2 {
		t.Errorf("got %d records after %d days, want 2", n, keptDays-1)
	}
	f.clock = f.clock.Add(24 * time.Hour)
	f.Count("new", Traffic{Served: 1})
	f.Write(t.Context())
	if got := fmt.Sprint(f.keys()); strings.Contains(got, "old") || len(f.keys()) != 2 || len(f.known) != 1 {
		t.Errorf("got the records %s, want those of the new group", got)
	}
}

// pull records a pull of a tag.
func (f *fixture) pull(scope, name string) {
	f.Record(&record.Request{Kind: record.Manifest, Result: record.Hit, Scope: scope, Tag: name})
}

// TestRecorderPulls checks that the time of a pull is known at once and written to the
// index later, and that the number of tags in memory is bounded.
func TestRecorderPulls(t *testing.T) {
	f := newFixture(t)
	x := f.Recorder.index
	const scope = "acme/_/hub/alpine"
	if err := x.SetRef(t.Context(), scope, "3", index.Ref{Digest: digest.FromString("x")}); err != nil {
		t.Fatal(err)
	}
	f.pull(scope, "3")
	f.pull("acme/_/hub/gone", "1")
	if at := f.LastPull(scope, "3"); !at.Equal(f.clock) {
		t.Errorf("got the pull %v, want %v", at, f.clock)
	}
	f.Write(t.Context())
	if at := f.LastPull(scope, "3"); !at.IsZero() {
		t.Errorf("got the pull %v in memory, want none", at)
	}
	if err := x.EachRef(t.Context(), "acme", func(n index.RefName) error {
		if !n.Used.Equal(f.clock) {
			t.Errorf("got the pull %v in the index, want %v", n.Used, f.clock)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	for i := range maxPulls + 10 {
		f.pull(scope, fmt.Sprint(i))
	}
	f.clock = f.clock.Add(time.Second)
	f.pull(scope, "0")
	if n := len(f.pulls); n != maxPulls || !f.LastPull(scope, "0").Equal(f.clock) {
		t.Errorf("got %d pulls, the first at %v; want %d and the last time", n, f.LastPull(scope, "0"), maxPulls)
	}
}
