package page

import (
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// TestNewUpstream checks which state of an address is shown.
func TestNewUpstream(t *testing.T) {
	before, after := now.Add(-time.Minute), now.Add(time.Minute)
	for want, s := range map[string]upstream.State{
		"up":      {Until: before, PullsUntil: before, Exceeded: upstream.PullLimit},
		"down":    {Down: true, DownSince: before, Until: after},
		"limited": {Until: after, Exceeded: upstream.AbuseLimit},
		"paused":  {Until: after},
		"offline": {Offline: true},
	} {
		if got := NewUpstream("common", s, now); got.State != want || got.Until.IsZero() != (want == "up" || want == "offline") || got.Since.IsZero() != (want != "down") || got.Budget != nil || !got.ErrorAt.IsZero() {
			t.Errorf("got %+v, want the state %s", got, want)
		}
	}
	if got := NewUpstream("common", upstream.State{PullsUntil: after, Budget: upstream.Budget{Limit: 100}}, now); got.State != "limited" || !got.Until.Equal(after) || got.Budget.Remaining != 0 {
		t.Errorf("got %+v, want an address that has no pulls left", got)
	}
}
