package blobcache

import "time"

// clock tells the time to those who judge by it how old things are, and gives
// no way to a wrong clock of the machine's to make all of them old at once.
type clock struct {
	began time.Time // as time goes by
	wall  time.Time // as the machine's clock had it then
}

// clockGrace is how long a machine that has just started may take to set its
// clock, during which nothing is too old.
const clockGrace = 10 * time.Minute

// clockFloor is a time that has certainly passed. A machine without a clock of
// its own starts before it.
var clockFloor = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

func newClock() clock {
	now := time.Now()
	return clock{began: now, wall: now.Round(0)}
}

// now is the time, but for jumps forward of the machine's clock since the
// process began.
func (c clock) now() time.Time {
	now := time.Now()
	wall, steady := now.Round(0), c.wall.Add(now.Sub(c.began))
	if wall.After(steady) {
		return steady
	}
	return wall
}

// trusted tells whether the time may be held against what is stored.
func (c clock) trusted() bool {
	return time.Since(c.began) >= clockGrace && time.Now().After(clockFloor)
}
