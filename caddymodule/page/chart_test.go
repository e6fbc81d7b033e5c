package page

import (
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/usage"
)

// TestChart checks that bars have the right heights and lie within the chart, and that
// the smallest traffic is visible.
func TestChart(t *testing.T) {
	many := make([]usage.Day, 30)
	many[0].Served, many[29].Fetched, many[15].Served = 1<<50, 1, 1<<49
	c := newChart(many)
	if c.Bars[0].Served.Height != chartHeight || c.Bars[15].Served.Height != chartHeight/2 || c.Bars[29].Fetched.Height < 1 || c.Bars[1].Served.Height != 0 {
		t.Errorf("got the bars %+v", c.Bars)
	}
	for _, day := range c.Bars {
		for _, b := range []Bar{day.Served, day.Fetched} {
			if b.X < 0 || b.Y < 0 || b.X+b.Width > chartWidth || b.Y+b.Height != chartHeight {
				t.Errorf("got the bar %+v outside of the chart", b)
			}
		}
	}
	for _, row := range []struct {
		served, fetched int64
		want            int
	}{{0, 0, 0}, {100, 25, 75}, {10, 20, 0}, {1 << 60, 1 << 59, 50}} {
		if got := (Chart{Sum: usage.Traffic{Served: row.served, Fetched: row.fetched}}).Saved(); got != row.want {
			t.Errorf("%+v: got %d %% saved", row, got)
		}
	}
}
