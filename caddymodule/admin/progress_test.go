package admin

import (
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
