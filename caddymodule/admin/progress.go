package admin

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

const (
	// barWidth is the width of a bar, without its frame.
	barWidth = 20

	// maxBars is how many bars are drawn.
	maxBars = 16

	// drawInterval is the least time between two drawings of the bars, and
	// lineInterval that between two lines about the progress of a task if there are
	// no bars.
	drawInterval = 100 * time.Millisecond
	lineInterval = 10 * time.Second
)

// progress shows the progress of tasks: on a terminal by a bar for each, otherwise by a
// line for each task every lineInterval.
type progress struct {
	out  io.Writer
	size func() (width, height int, err error) // of the terminal; nil if out is none

	mu      sync.Mutex
	tasks   []*task
	drawn   int // lines on the terminal below what has ended
	drawnAt time.Time
}

// task is something that is in progress.
type task struct {
	of          *progress
	name        string
	done, total int64 // in bytes; a total of 0 is not known
	shown       time.Time
}

// newProgress returns a progress that is written to out.
func newProgress(out io.Writer) *progress {
	p := &progress{out: out}
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		p.size = func() (int, int, error) { return term.GetSize(int(file.Fd())) }
	}
	return p
}

// start adds a task.
func (p *progress) start(name string) *task {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &task{of: p, name: name, shown: time.Now()}
	p.tasks = append(p.tasks, t)
	return t
}

// set sets the progress of the task, in bytes.
func (t *task) set(done, total int64) {
	p := t.of
	p.mu.Lock()
	defer p.mu.Unlock()
	t.done, t.total = done, total
	now := time.Now()
	switch {
	case p.size != nil && now.Sub(p.drawnAt) >= drawInterval:
		p.drawnAt = now
		p.draw("")
	case p.size == nil && now.Sub(t.shown) >= lineInterval:
		t.shown = now
		_, _ = fmt.Fprintf(p.out, "%s: %s\n", t.name, t.amount())
	}
}

// end removes the task and prints a line about it, unless that is empty.
func (t *task) end(line string) {
	p := t.of
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.tasks {
		if other == t {
			p.tasks = append(p.tasks[:i:i], p.tasks[i+1:]...)
			break
		}
	}
	if line != "" {
		line += "\n"
	}
	if p.size == nil {
		_, _ = io.WriteString(p.out, line)
		return
	}
	p.draw(line)
}

// draw replaces the bars by text, which ends with a line break unless it is empty, and
// draws them below it.
func (p *progress) draw(text string) {
	var out strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&out, "\x1b[%dA", p.drawn) // up to the first bar
	}
	out.WriteString("\r\x1b[J" + text) // without what is below
	width, height, err := p.size()
	if err != nil || width <= 0 || height <= 0 {
		width, height = 80, 24 // some terminals do not know
	}
	p.drawn = 0
	for _, t := range p.tasks[:min(len(p.tasks), maxBars, max(height-2, 0))] {
		out.WriteString(t.line(width-1) + "\n")
		p.drawn++
	}
	_, _ = io.WriteString(p.out, out.String())
}

// line returns the task with its bar, at most width characters wide.
func (t *task) line(width int) string {
	right := fmt.Sprintf(" [%s] %s", bar(t.done, t.total), t.amount())
	name := []rune(t.name)
	if room := max(width-len(right), 0); len(name) > room {
		name = append([]rune{'…'}, name[len(name)-max(room-1, 0):]...) // names differ at the end
	}
	line := []rune(string(name) + right)
	return string(line[:min(len(line), width)])
}

// amount returns the progress of the task, as in "1.5 GiB of 3.0 GiB".
func (t *task) amount() string {
	if t.total <= 0 {
		return FormatSize(t.done)
	}
	return FormatSize(t.done) + " of " + FormatSize(t.total)
}

// bar returns a bar. It is empty if total is not known.
func bar(done, total int64) string {
	filled := 0
	if total > 0 {
		filled = int(float64(min(max(done, 0), total)) / float64(total) * barWidth)
	}
	return strings.Repeat("#", filled) + strings.Repeat(" ", barWidth-filled)
}
