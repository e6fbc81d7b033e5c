package fill

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrTooSlow means that a transfer was ended because its source was too slow.
var ErrTooSlow = errors.New("the source is too slow")

// rateSamples is the number of samples in a rate's window.
const rateSamples = 10

// meter measures the rate of one transfer, over all its connections and
// resumes, and ends it if the rate is too low. Its clock runs only while the
// transfer waits for the source, since a disk or a client may take its time.
type meter struct {
	limits  SourceLimits // without zeros
	readers func() bool  // reports whether there are readers; nil means yes
	fetched func(n int)  // see [Request.Fetched]
	fail    context.CancelCauseFunc

	mu      sync.Mutex
	waiting int           // calls that wait for the source
	since   time.Time     // up to when their time has been counted
	quiet   time.Duration // that time since the last progress
	stalled *time.Timer   // runs while they wait
	samples [rateSamples]sample
	at      int // the sample that is being taken
	taken   int // how many are whole
}

// sample holds the bytes that came in a period of time, and the bytes that were
// due.
type sample struct {
	took     time.Duration
	got, due float64 // bytes
}

func newMeter(req *Request, fail context.CancelCauseFunc, readers func() bool) *meter {
	return &meter{limits: req.Source.withDefaults(), fail: fail, readers: readers, fetched: req.Fetched}
}

// begin is called before a wait for the source. It returns how long the transfer has
// waited since the last progress.
func (m *meter) begin() (quiet time.Duration) {
	rate := m.rate()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count(rate)
	if m.waiting++; m.waiting == 1 {
		m.arm()
	}
	return m.quiet
}

// end is called after the wait, which has brought n bytes. If it has brought some, the
// transfer has waited for the given time at most since the last progress.
func (m *meter) end(n int, quiet time.Duration) {
	rate := m.rate()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count(rate)
	if n > 0 {
		m.quiet = min(m.quiet, quiet)
		m.samples[m.at].got += float64(n)
	}
	if m.waiting--; m.waiting == 0 {
		m.stalled.Stop()
	} else if n > 0 {
		m.arm()
	}
	m.judge(rate)
}

// rate returns the minimum rate in bytes per second, which depends on whether
// there are readers.
func (m *meter) rate() float64 {
	if m.readers != nil && !m.readers() {
		return float64(max(m.limits.MinRateUnread, 0))
	}
	return float64(max(m.limits.MinRate, 0))
}

// count adds the time since the last call, if the transfer waited for the
// source.
func (m *meter) count(rate float64) {
	now := time.Now()
	if m.waiting > 0 {
		took := now.Sub(m.since)
		m.quiet += took
		m.samples[m.at].took += took
		m.samples[m.at].due += rate * took.Seconds()
	}
	m.since = now
}

// arm sets the timer that ends the transfer if it makes no progress for too long.
func (m *meter) arm() {
	left := m.limits.Stall - m.quiet
	if m.stalled == nil {
		m.stalled = time.AfterFunc(left, m.stall)
	} else {
		m.stalled.Reset(left)
	}
}

func (m *meter) stall() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waiting > 0 && m.quiet+time.Since(m.since) >= m.limits.Stall {
		m.fail(fmt.Errorf("the source sent nothing new for %v: %w", m.limits.Stall, context.DeadlineExceeded))
	}
}

// judge ends the transfer if it has brought too little in the whole window.
// While there are readers, the lower rate applies to the whole window, so that
// a client that returns finds the fill that it has left.
func (m *meter) judge(rate float64) {
	if m.samples[m.at].took < m.limits.RateWindow/rateSamples {
		return
	}
	m.taken = min(m.taken+1, rateSamples)
	var sum sample
	for _, s := range m.samples {
		sum.took += s.took
		sum.got += s.got
		sum.due += s.due
	}
	sum.due = min(sum.due, rate*sum.took.Seconds())
	m.at = (m.at + 1) % rateSamples
	m.samples[m.at] = sample{}
	if m.taken == rateSamples && sum.got < sum.due {
		m.fail(fmt.Errorf("%.0f bytes in %v: %w", sum.got, sum.took.Round(time.Second), ErrTooSlow))
	}
}
