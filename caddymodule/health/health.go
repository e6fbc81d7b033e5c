// Package health says whether a site can do its work, for load balancers and
// administrators.
//
// A [Site] asks its storage and its directories itself, whatever clients do, so
// that no request can make it look down. It asks each of them once in a while, at
// most once at a time, and only while somebody wants to know: any number of
// requests cause no more questions than one.
//
// Upstreams do not count. While one is away, what is cached can still be pulled. The
// state of each, an [Upstream], is for administrators only.
package health

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

const (
	// interval is the age at which an answer is asked for again.
	interval = 10 * time.Second

	// doubt is the same if a part that was up has just failed. One failure, as at
	// the restart of a server, is no reason to send all clients to other nodes,
	// which may see it too.
	doubt = 2 * time.Second

	// patience is how long a request waits for the answers to questions.
	patience = 500 * time.Millisecond

	// limit is the time after which a part that does not answer is down. A
	// question ends then, unless it hangs in the operating system.
	limit = 5 * time.Second
)

// Status is the status of a site or of a part of it.
type Status string

const (
	// OK means that it works.
	OK Status = "ok"

	// Unavailable means that requests should go to another node: the storage or
	// all directories are down, or Caddy is about to stop.
	Unavailable Status = "unavailable"
)

// Report is the state of a site. All but the status is for administrators.
type Report struct {
	Status      Status `json:"status"`
	Stopping    bool   `json:"stopping,omitempty"` // Caddy is about to stop
	Storage     *Part  `json:"storage,omitempty"`
	Directories []Part `json:"directories,omitempty"` // in the order of the configuration
}

// Part is the state of the storage or of a directory.
type Part struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Error  string `json:"error,omitempty"`
	// Asked is the start of the question that was answered last; nil if there
	// was none, as for a directory that has its accounts in the configuration.
	Asked *time.Time `json:"asked,omitempty"`
}

// Site knows the state of a site. Its methods may be called concurrently.
type Site struct {
	storage     *part
	directories []*part
}

// New returns the state of a site with a storage and directories. Neither is asked
// before the first [Site.Report]. The function storage asks the storage.
func New(name string, storage func(context.Context) error, directories []access.Named) *Site {
	s := &Site{storage: &part{name: name, ask: storage}}
	for _, d := range directories {
		p := &part{name: d.Name}
		if remote, ok := d.Directory.(directory.Remote); ok {
			p.ask = remote.Reach
		}
		s.directories = append(s.directories, p)
	}
	return s
}

// Report returns the state of the site, which is at most a few seconds old. It
// waits for less than a second. A part that has not been asked before, and does not
// answer within that time, counts as down until it does. A directory that need not
// be asked is always up, and one that was up is down when it does not answer or fails
// twice in a row.
func (s *Site) Report(ctx context.Context, stopping bool) Report {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	states := ask(ctx, append([]*part{s.storage}, s.directories...))
	up := 0
	for _, state := range states[1:] {
		if state.Status == OK {
			up++
		}
	}
	report := Report{Status: OK, Stopping: stopping, Storage: &states[0], Directories: states[1:]}
	if stopping || states[0].Status != OK || up == 0 && len(s.directories) > 0 {
		report.Status = Unavailable
	}
	return report
}

// DirectoriesUp returns, by the names of the directories, which of them are up. It asks
// and waits as [Site.Report] does.
func (s *Site) DirectoriesUp(ctx context.Context) map[string]bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	up := make(map[string]bool, len(s.directories))
	for _, state := range ask(ctx, s.directories) {
		up[state.Name] = state.Status == OK
	}
	return up
}

// ask returns the states of the parts, after asking those whose last answer is old.
func ask(ctx context.Context, parts []*part) []Part {
	for _, p := range parts {
		p.refresh()
	}
	states := make([]Part, len(parts))
	for i, p := range parts {
		states[i] = p.wait(ctx)
	}
	return states
}

// part is the storage or a directory.
type part struct {
	name string
	ask  func(context.Context) error // nil if it is always up

	mu    sync.Mutex
	asked time.Time     // the start of the question that was answered last
	err   error         // its answer; nil if that was an error for the first time
	doubt bool          // it was
	since time.Time     // the start of the question that is being asked
	done  chan struct{} // closed when it is answered; nil if none is asked
}

var errUnasked = errors.New("it has not answered yet")

// refresh asks in the background unless the last answer is new, or a question is
// being asked.
func (p *part) refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	age := interval
	if p.doubt {
		age = doubt
	}
	if p.ask == nil || p.done != nil || !p.asked.IsZero() && time.Since(p.asked) < age {
		return
	}
	p.since, p.done = time.Now(), make(chan struct{})
	go p.question(p.since, p.done)
}

// question asks, for no longer than limit.
func (p *part) question(since time.Time, done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err := p.askSafely(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doubt = err != nil && p.err == nil && !p.doubt && !p.asked.IsZero() && time.Since(since) < limit
	if p.doubt {
		err = nil
	}
	p.asked, p.err, p.done = since, err, nil
	close(done)
}

// askSafely returns a panic of a guest module as an error: outside of the goroutine
// of a request it would end the process.
func (p *part) askSafely(ctx context.Context) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v", cause)
		}
	}()
	return p.ask(ctx)
}

// wait returns the state of the part when the question is answered or ctx ends.
func (p *part) wait(ctx context.Context) Part {
	p.mu.Lock()
	defer p.mu.Unlock()
	if done := p.done; done != nil {
		p.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
		}
		p.mu.Lock()
	}
	state := Part{Name: p.name, Status: OK}
	if p.ask == nil {
		return state
	}
	err := p.err
	if asked := p.asked.UTC(); p.asked.IsZero() {
		err = errUnasked
	} else {
		state.Asked = &asked
	}
	if p.done != nil && time.Since(p.since) >= limit {
		err = fmt.Errorf("it has not answered for %s", time.Since(p.since).Round(time.Second))
	}
	if err != nil {
		state.Status, state.Error = Unavailable, err.Error()
	}
	return state
}
