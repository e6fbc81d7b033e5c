package audit

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
)

// newLog returns a log of pulls, and a function that returns the sorted lines since
// its last call.
func newLog(level zapcore.Level) (*Pulls, func() []string) {
	core, lines := observer.New(level)
	return NewPulls(zap.New(core)), func() (all []string) {
		for _, line := range lines.TakeAll() {
			f := line.ContextMap()
			text := fmt.Sprint(line.Level, "|", line.Message, "|", f["event"])
			for _, name := range []string{"account", "directory", "access_token", "client_ip", "group", "upstream", "repository", "tag", "digest", "result", "bytes", "pulls"} {
				if value, ok := f[name]; ok {
					text += fmt.Sprint("|", value)
				}
			}
			all = append(all, text)
		}
		slices.Sort(all)
		return all
	}
}

// manifest is the record of a pull by an account.
func manifest() *record.Request {
	return &record.Request{
		Kind: record.Manifest, Result: record.Hit, Group: "acme", Image: "alpine", Upstream: "docker.io", Repository: "library/alpine", Tag: "3.20",
		Digest: "sha256:01", Account: "alice", Directory: "ldap", AccessToken: "id", Address: "192.0.2.1", Status: 200, Bytes: 500,
	}
}

// anonymous is the record of a pull by a client without a login.
func anonymous(group, d string) *record.Request {
	r := manifest()
	r.Account, r.Directory, r.AccessToken, r.Anonymous, r.Group, r.Digest = "", "", "", true, group, digest.Digest(d)
	return r
}

// TestPullsRecord checks which requests are logged.
func TestPullsRecord(t *testing.T) {
	const pulled = "info|pull|pull|alice|ldap|id|192.0.2.1|acme|docker.io|library/alpine|3.20|sha256:01|hit|500"
	for name, row := range map[string]struct {
		change func(*record.Request)
		want   string
	}{
		"pull":           {func(*record.Request) {}, pulled},
		"not modified":   {func(r *record.Request) { r.Status, r.Bytes = 304, 0 }, "info|pull|pull|alice|ldap|id|192.0.2.1|acme|docker.io|library/alpine|3.20|sha256:01|hit|0"},
		"HEAD of a tag":  {func(r *record.Request) { r.Head, r.Bytes = true, 0 }, "info|resolve|resolve|alice|ldap|id|192.0.2.1|acme|docker.io|library/alpine|3.20|sha256:01|hit|0"},
		"HEAD, digest":   {func(r *record.Request) { r.Head, r.Tag = true, "" }, ""},
		"anonymous HEAD": {func(r *record.Request) { r.Head, r.Anonymous = true, true }, ""},
		"blob":           {func(r *record.Request) { r.Kind = record.Blob }, ""},
		"denied":         {func(r *record.Request) { r.Result = record.Denied }, ""},
		"invalid":        {func(r *record.Request) { r.Result, r.Status = record.Error, 400 }, ""},
		"not begun":      {func(r *record.Request) { r.Result, r.Bytes = record.Canceled, 0 }, ""},
		"canceled":       {func(r *record.Request) { r.Result, r.Bytes = record.Canceled, 499 }, "info|pull|pull|alice|ldap|id|192.0.2.1|acme|docker.io|library/alpine|3.20|sha256:01|canceled|499"},
		"aborted":        {func(r *record.Request) { r.Result, r.Bytes = record.Error, 499 }, "info|pull|pull|alice|ldap|id|192.0.2.1|acme|docker.io|library/alpine|3.20|sha256:01|error|499"},
	} {
		p, lines := newLog(zapcore.InfoLevel)
		r := manifest()
		row.change(r)
		p.Record(r)
		p.Close()
		var want []string
		if row.want != "" {
			want = []string{row.want}
		}
		if got := lines(); !slices.Equal(got, want) {
			t.Errorf("%s: got the lines %q, want %q", name, got, want)
		}
	}
}

// TestPullsCountsAnonymous checks that anonymous pulls are counted by minute, group and
// digest, and that the end of a configuration writes the counts.
func TestPullsCountsAnonymous(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, lines := newLog(zapcore.InfoLevel)
		expect := func(when string, want ...string) {
			t.Helper()
			synctest.Wait()
			if got := lines(); !slices.Equal(got, want) {
				t.Errorf("%s: got the lines %q, want %q", when, got, want)
			}
		}
		line := func(group, d string, pulls int) string {
			return fmt.Sprintf("info|anonymous pulls|anonymous pulls|%s|docker.io|library/alpine|%s|%d|%d", group, d, 500*pulls, pulls)
		}
		for range 3 {
			p.Record(anonymous("open", "sha256:01"))
		}
		p.Record(anonymous("open", "sha256:02"))
		p.Record(anonymous("wide", "sha256:01"))
		time.Sleep(period - 1)
		expect("within the minute")
		time.Sleep(time.Nanosecond)
		expect("after a minute", line("open", "sha256:01", 3), line("open", "sha256:02", 1), line("wide", "sha256:01", 1))
		time.Sleep(2 * period)
		expect("later")
		p.Record(anonymous("open", "sha256:01"))
		time.Sleep(period)
		expect("another minute", line("open", "sha256:01", 1))
		p.Record(anonymous("open", "sha256:01"))
		p.Close()
		expect("at the end", line("open", "sha256:01", 1))
		p.Record(anonymous("open", "sha256:01"))
		expect("after the end", line("open", "sha256:01", 1))
	})
}

// TestPullsBoundsCounts checks that clients cannot make a site count, and log, without
// limit.
func TestPullsBoundsCounts(t *testing.T) {
	p, lines := newLog(zapcore.InfoLevel)
	for i := range maxCounts + 20 {
		p.Record(anonymous("open", fmt.Sprint("sha256:", i)))
	}
	p.Record(anonymous("open", "sha256:0"))
	p.Close()
	got := lines()
	want := fmt.Sprintf("info|anonymous pulls|anonymous pulls|_other||||%d|20", 20*500)
	if len(got) != maxCounts+1 || !slices.Contains(got, want) {
		t.Errorf("got %d lines, such as %q, want %d with %q", len(got), got[:2], maxCounts+1, want)
	}
}

// TestPullsOff checks that nothing is counted if the level of the log excludes pulls.
func TestPullsOff(t *testing.T) {
	p, lines := newLog(zapcore.WarnLevel)
	r := manifest()
	p.Record(r)
	p.Record(anonymous("open", "sha256:01"))
	if len(p.counts) != 0 {
		t.Errorf("got %d counts, want none", len(p.counts))
	}
	p.Close()
	if got := lines(); len(got) != 0 {
		t.Errorf("got the lines %q, want none", got)
	}
}

// BenchmarkPulls measures a line for an account, and a count of an anonymous pull.
func BenchmarkPulls(b *testing.B) {
	for name, r := range map[string]*record.Request{"account": manifest(), "anonymous": anonymous("open", "sha256:01")} {
		b.Run(name, func(b *testing.B) {
			encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
			p := NewPulls(zap.New(zapcore.NewCore(encoder, zapcore.AddSync(discard{}), zapcore.InfoLevel)))
			defer p.Close()
			b.ReportAllocs()
			for b.Loop() {
				p.Record(r)
			}
		})
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
