package health

import (
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

// TestNewUpstream checks which state of an address is shown.
func TestNewUpstream(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	before, after := now.Add(-time.Minute), now.Add(time.Minute)
	for want, s := range map[string]upstream.State{
		"up":      {Until: before, PullsUntil: before, Exceeded: ratelimit.Pulls},
		"down":    {Down: true, DownSince: before, Until: after},
		"limited": {Until: after, Exceeded: ratelimit.Abuse},
		"paused":  {Until: after},
		"offline": {Offline: true},
	} {
		if got := NewUpstream("common", s, now); got.State != want || got.Until.IsZero() != (want == "up" || want == "offline") || got.Since.IsZero() != (want != "down") ||
			(got.Limit == "") != (want != "limited") || got.Budget != nil || !got.ErrorAt.IsZero() {
			t.Errorf("got %+v, want the state %s", got, want)
		}
	}
	if got := NewUpstream("common", upstream.State{PullsUntil: after, Budget: ratelimit.Budget{Limit: 100}}, now); got.State != "limited" || !got.Until.Equal(after) || got.Budget.Remaining != 0 {
		t.Errorf("got %+v, want an address that has no pulls left", got)
	}
}
