package blobcache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrTooSlow means that a source sends so slowly that the transfer was ended.
var ErrTooSlow = errors.New("the source is too slow")

// rateSamples is how many stretches a rate's window is divided into.
const rateSamples = 10

// meter measures what one transfer brings, over all its connections and through
// all its resumes, and ends it if that is too little. Its clock runs only while
// the source is waited for: a disk, or a client, may take its time.
type meter struct {
	limits  SourceLimits // without zeros
	readers func() bool  // reports whether somebody reads; nil: somebody does
	fail    context.CancelCauseFunc

	mu      sync.Mutex
	begun   bool          // the source has answered
	waiting int           // calls that wait for the source
	since   time.Time     // up to when their time has been counted
	quiet   time.Duration // that time since the last byte
	stalled *time.Timer   // runs while they wait
	samples [rateSamples]sample
	at      int // the sample that is being taken
	taken   int // how many are whole
}

// sample holds how many bytes came in a stretch of time, and how many should have.
type sample struct {
	took     time.Duration
	got, due float64 // bytes
}

func newMeter(limits SourceLimits, fail context.CancelCauseFunc, readers func() bool) *meter {
	return &meter{limits: limits.withDefaults(), fail: fail, readers: readers}
}

// begin says that the source is waited for.
func (m *meter) begin() {
	rate := m.rate()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count(rate)
	if m.waiting++; m.waiting == 1 {
		m.arm()
	}
}

// end says that so many bytes have come of it.
func (m *meter) end(n int) {
	rate := m.rate()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count(rate)
	if n > 0 {
		m.quiet = 0
		m.samples[m.at].got += float64(n)
	}
	if m.waiting--; m.waiting == 0 {
		m.stalled.Stop()
	} else if n > 0 {
		m.arm()
	}
	m.judge(rate)
}

// answered says that the source has begun to answer. That counts as progress, but
// not again when it is asked to go on.
func (m *meter) answered() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.begun {
		m.begun, m.quiet = true, 0
	}
}

// rate is how many bytes a second should come now.
func (m *meter) rate() float64 {
	if m.readers != nil && !m.readers() {
		return float64(max(m.limits.MinRateUnread, 0))
	}
	return float64(max(m.limits.MinRate, 0))
}

// count adds the time that has passed while the source was waited for.
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

// arm ends the transfer when nothing will have come for too long.
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
		m.fail(fmt.Errorf("the source sent nothing for %v: %w", m.limits.Stall, context.DeadlineExceeded))
	}
}

// judge ends the transfer if it has brought too little in the whole window. While
// somebody reads, that nobody did for a part of it does not make it more: a client
// that comes back finds what it has left.
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
