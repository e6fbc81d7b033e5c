package admin

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestTaskLine(t *testing.T) {
	for _, c := range []struct {
		name        string
		done, total int64
		width       int
		want        string
	}{
		{"acme/alpine:3.20", 512, 2048, 80, "acme/alpine:3.20 [#####               ] 512 B of 2.0 KiB"},
		{"acme/alpine:3.20", 512, 0, 80, "acme/alpine:3.20 [                    ] 512 B"},
		{"acme/alpine:3.20", 4096, 2048, 80, "acme/alpine:3.20 [####################] 4.0 KiB of 2.0 KiB"},
		{"registry.example.com/acme/alpine:3.20", 1024, 2048, 55, "…/alpine:3.20 [##########          ] 1.0 KiB of 2.0 KiB"},
		{"acme/alpine:3.20", 1024, 2048, 10, "… [#######"},
	} {
		got := (&task{name: c.name, done: c.done, total: c.total}).line(c.width)
		if got != c.want {
			t.Errorf("%s, %d of %d, width %d: got %q, want %q", c.name, c.done, c.total, c.width, got, c.want)
		}
		if n := len([]rune(got)); n > c.width {
			t.Errorf("%s: got %d characters, want at most %d", c.name, n, c.width)
		}
	}
}

// Without a terminal, there is a line about what has ended, and about what takes long.
func TestProgressWithoutTerminal(t *testing.T) {
	var out strings.Builder
	p := newProgress(&out)
	a, b := p.start("a"), p.start("b")
	a.set(1024, 2048)
	b.shown = time.Now().Add(-lineInterval)
	b.set(1024, 2048)
	b.set(1500, 2048)
	a.end("a has ended")
	b.end("")
	if want := "b: 1.0 KiB of 2.0 KiB\na has ended\n"; out.String() != want || len(p.tasks) != 0 {
		t.Errorf("got %q and %d tasks, want %q and none", out.String(), len(p.tasks), want)
	}
}

// On a terminal of any size, no line of the bars is as wide as the terminal, or it would
// take two, and they leave room for other lines.
func TestProgressOnTerminal(t *testing.T) {
	for _, size := range [][2]int{{200, 50}, {80, 24}, {40, 5}, {15, 3}, {1, 1}, {0, 0}} {
		var out strings.Builder
		p := &progress{out: &out, size: func() (int, int, error) { return size[0], size[1], nil }}
		width, height := size[0], size[1]
		if width == 0 {
			width, height = 80, 24
		}
		var tasks []*task
		for range 30 {
			tasks = append(tasks, p.start("registry.example.com/acme/alpine:3.20"))
		}
		tasks[0].set(1024, 2048)
		if p.drawn > maxBars || p.drawn > max(height-2, 0) || strings.Count(out.String(), "\n") != p.drawn {
			t.Errorf("%v: got %d lines and %q, want less than the terminal has", size, p.drawn, out.String())
		}
		for line := range strings.Lines(out.String()) {
			line = strings.TrimSuffix(strings.TrimPrefix(line, "\r\x1b[J"), "\n")
			if n := len([]rune(line)); n >= width {
				t.Errorf("%v: got %d characters in %q", size, n, line)
			}
		}
		drawn := p.drawn
		out.Reset()
		tasks[0].end("done")
		if up := fmt.Sprintf("\x1b[%dA", drawn); drawn > 0 && !strings.HasPrefix(out.String(), up) || !strings.Contains(out.String(), "done\n") {
			t.Errorf("%v: got %q, want it to replace %d lines", size, out.String(), drawn)
		}
	}
}
