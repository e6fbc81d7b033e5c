package page

import (
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/usage"
)

// The size of a chart, in the units of its view box.
const (
	chartWidth  = 720
	chartHeight = 160
)

// Chart shows traffic by day, as bars and as a table.
type Chart struct {
	Days []usage.Day // the oldest first
	Bars []Bars
	Max  int64 // bytes of the highest bar
	Sum  usage.Traffic
}

// Bars are the bars of a day.
type Bars struct {
	Day             usage.Day
	Served, Fetched Bar
}

// Bar is a rectangle of a chart.
type Bar struct{ X, Y, Width, Height int }

func newChart(days []usage.Day) Chart {
	c := Chart{Days: days}
	for _, d := range days {
		c.Max = max(c.Max, d.Served, d.Fetched)
		c.Sum.Served += d.Served
		c.Sum.Fetched += d.Fetched
	}
	for i, d := range days {
		left, slot := i*chartWidth/len(days), chartWidth/len(days)
		width := max(1, (slot-6)/2)
		c.Bars = append(c.Bars, Bars{d, c.bar(left+2, width, d.Served), c.bar(left+3+width, width, d.Fetched)})
	}
	return c
}

// bar returns a bar. One for any bytes at all is visible.
func (c *Chart) bar(x, width int, bytes int64) Bar {
	height := 0
	if bytes > 0 {
		height = max(2, int(float64(bytes)/float64(c.Max)*chartHeight))
	}
	return Bar{x, chartHeight - height, width, height}
}

// Width and Height return the size of the view box.
func (Chart) Width() int  { return chartWidth }
func (Chart) Height() int { return chartHeight }

// Saved returns the part of the bytes served that was not fetched, in percent.
func (c Chart) Saved() int {
	if c.Sum.Served <= 0 || c.Sum.Fetched >= c.Sum.Served {
		return 0
	}
	return int(100 * float64(c.Sum.Served-c.Sum.Fetched) / float64(c.Sum.Served))
}
