package freshness

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

func TestPolicyApply(t *testing.T) {
	hour, off := caddy.Duration(time.Hour), caddy.Duration(0)
	p := Policy{StaleFor: &hour, FreshRules: []Rule{
		{caddy.Duration(24 * time.Hour), []string{"docker.io/library/*:*.*.*", "docker.io/acme/*"}},
		{caddy.Duration(2 * time.Minute), []string{"docker.io/**:*.*.*"}},
	}}
	if err := p.Provision("docker.io"); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		repository, tag string
		want            time.Duration
	}{
		{"library/alpine", "3.20.1", 24 * time.Hour},
		{"library/alpine", "3.20", 5 * time.Minute},
		{"library/alpine", "", 5 * time.Minute},
		{"acme/tool", "latest", 24 * time.Hour},
		{"other/tool", "1.2.3", 2 * time.Minute},
		{"acme/tool/sub", "1.2.3", 2 * time.Minute},
	} {
		var c pullthrough.Config
		if p.Apply(&c, "docker.io", row.repository, row.tag); c.FreshFor != row.want || c.Patience != 500*time.Millisecond || c.StaleFor != time.Hour {
			t.Errorf("%s:%s: got %v, %v and %v, want %v", row.repository, row.tag, c.FreshFor, c.Patience, c.StaleFor, row.want)
		}
	}
	var c pullthrough.Config
	p.StaleFor = nil
	if p.Apply(&c, "docker.io", "library/alpine", "3"); c.StaleFor != pullthrough.Forever {
		t.Errorf("got a limit of %v by default, want none", c.StaleFor)
	}
	p.StaleFor = &off
	if p.Apply(&c, "docker.io", "library/alpine", "3"); c.StaleFor != 0 {
		t.Errorf("got stale answers for %v when they are off, want none", c.StaleFor)
	}
}

// Configurations in JSON are checked as those of a Caddyfile are.
func TestPolicyCheck(t *testing.T) {
	negative := caddy.Duration(-1)
	for want, p := range map[string]Policy{
		"":                     {},
		"fresh_for must not":   {FreshFor: -1},
		"patience must not":    {Patience: -1},
		"stale_for must not":   {StaleFor: &negative},
		"needs a positive":     {FreshRules: []Rule{{0, []string{"ghcr.io/**"}}}},
		"and patterns":         {FreshRules: []Rule{{1, nil}}},
		"matches no image of":  {FreshRules: []Rule{{1, []string{"ghcr.io/**", "docker.io/**"}}}},
		"missing repository":   {FreshRules: []Rule{{1, []string{"ghcr.io"}}}},
		"must not contain a d": {FreshRules: []Rule{{1, []string{"ghcr.io/a@sha256:1"}}}},
	} {
		err := p.Check("ghcr.io")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got error %v, want %q", err, want)
		}
	}
}

func TestSetHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		checked := time.Now()
		time.Sleep(90*time.Second + time.Millisecond)
		for _, row := range []struct {
			origin               pullthrough.Origin
			tag                  string
			status, age, warning string
		}{
			{pullthrough.Origin{Status: pullthrough.Hit, Checked: checked}, "3", "hit", "90", ""},
			{pullthrough.Origin{Status: pullthrough.Hit}, "", "hit", "", ""},
			{pullthrough.Origin{Status: pullthrough.Miss, Checked: checked}, "3", "fwd=miss", "", ""},
			{pullthrough.Origin{Status: pullthrough.Joined}, "", "fwd=miss; collapsed", "", ""},
			{pullthrough.Origin{Status: pullthrough.Stale, Reason: pullthrough.TimedOut, Checked: checked}, "3", "fwd=stale; detail=timeout", "90",
				`299 - "alpine:3 may be out of date: docker.io does not answer (last confirmed at 2000-01-01T00:00:00Z)"`},
			{pullthrough.Origin{Status: pullthrough.Stale, Reason: "another"}, "", "fwd=stale; detail=another", "",
				`299 - "the list of alpine may be out of date: docker.io could not be asked about it"`},
		} {
			h := make(http.Header)
			SetHeader(h, row.origin, "docker.io", "alpine", row.tag)
			if got := h.Get("Cache-Status"); got != "dependency-proxy; "+row.status {
				t.Errorf("got Cache-Status %q, want %q", got, row.status)
			}
			if got := h.Get("Age"); got != row.age {
				t.Errorf("%s: got Age %q, want %q", row.status, got, row.age)
			}
			if got := h.Get("Warning"); got != row.warning {
				t.Errorf("%s: got Warning %s, want %s", row.status, got, row.warning)
			}
		}
	})
}

// An outage of an upstream with many tags fills no log.
func TestLogStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		report := LogStale(zap.New(core))
		gone, silent := &upstream.Error{Kind: upstream.ManifestUnknown}, &upstream.Error{Kind: upstream.Timeout}
		for range 100 {
			report("acme/_/docker.io@1/library/alpine", "1", silent)
			report("acme/_/docker.io@1/library/debian", "2", silent)
			report("other/_/ghcr.io@2/app", "3", silent)
			report("acme/_/docker.io@1/library/alpine", "4", gone)
		}
		if got := logs.TakeAll(); len(got) != 3 || got[0].ContextMap()["reason"] != "timeout" || got[2].ContextMap()["reason"] != "not-found" {
			t.Errorf("got %v, want one line for each upstream and reason", got)
		}
		time.Sleep(time.Minute)
		report("acme/_/docker.io@1/library/alpine", "1", silent)
		report("acme/_/docker.io@1/library/alpine", "1", errors.New("x"))
		if got := logs.Len(); got != 2 {
			t.Errorf("got %d lines after a minute, want 2", got)
		}
	})
}

func TestWantsRefresh(t *testing.T) {
	for value, want := range map[string]bool{
		"": false, "no-cache": true, "max-age=0, No-Cache": true, "no-cache,no-store": true, "no-store": false, "no-cachet": false, `private="no-cache"`: false,
	} {
		if got := WantsRefresh(http.Header{"Cache-Control": {"max-age=0", value}}); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
	if WantsRefresh(http.Header{"Pragma": {"no-cache"}}) {
		t.Error("got true without Cache-Control, want false")
	}
}
