package ratelimit

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestBudgetScarcity(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		limit, remaining int64
		want             float64
	}{{0, 0, 0}, {100, 100, 0}, {100, 20, 0}, {100, 10, 0.5}, {100, 5, 0.75}, {100, 0, 1}} {
		b := Budget{Limit: test.limit, Remaining: test.remaining, Seen: now}
		if got := b.Scarcity(now); got != test.want {
			t.Errorf("%d of %d: got %v, want %v", test.remaining, test.limit, got, test.want)
		}
		if got := b.Scarcity(now.Add(time.Hour)); got != 0 {
			t.Errorf("an hour later: got %v, want 0", got)
		}
	}
}

func TestParseBudget(t *testing.T) {
	for _, test := range []struct {
		limit, remaining string
		want             Budget
	}{
		{"100;w=21600", "76;w=21600", Budget{Limit: 100, Remaining: 76, Window: 6 * time.Hour}},
		{"100", "0", Budget{Limit: 100}},
		{" 100 ; w=60 ", "7", Budget{Limit: 100, Remaining: 7, Window: time.Minute}},
		{"100", "7;w=60", Budget{Limit: 100, Remaining: 7, Window: time.Minute}},
		{"100;w=x", "200", Budget{Limit: 100, Remaining: 100}},
		{"100;w=-5", "-7", Budget{}},
		{"100;w=99999999999", "7", Budget{Limit: 100, Remaining: 7}},
		{"100;w=2000000000", "7", Budget{Limit: 100, Remaining: 7, Window: maxBudgetWindow}},
		{"0", "0", Budget{}},
		{"", "7", Budget{}},
		{"100", "", Budget{}},
		{"99999999999999999999", "1", Budget{}},
		{"many", "few", Budget{}},
	} {
		got, ok := Parse(http.Header{"Ratelimit-Limit": {test.limit}, "Ratelimit-Remaining": {test.remaining}}, time.Time{})
		if got != test.want || ok != (test.want != Budget{}) {
			t.Errorf("%q and %q: got %+v, %t, want %+v", test.limit, test.remaining, got, ok, test.want)
		}
	}
	h := http.Header{"Ratelimit-Limit": {"1"}, "Ratelimit-Remaining": {"1"}}
	h.Set("Docker-RateLimit-Source", strings.Repeat("x", 65))
	if got, _ := Parse(h, time.Time{}); got.Source != "" {
		t.Errorf("got source %q, want none", got.Source)
	}
}
