package blobcache

import "time"

// clock measures the age of content. A wrong clock of the machine must
// not make all content old at once.
type clock struct {
	began time.Time // as time goes by
	wall  time.Time // as the machine's clock had it then
}

// clockGrace is how long a machine may take after its start to set its clock.
// During that time no content is too old.
const clockGrace = 10 * time.Minute

// clockFloor is a time in the past. A machine without a battery-backed clock
// starts before it.
var clockFloor = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

func newClock() clock {
	now := time.Now()
	return clock{began: now, wall: now.Round(0)}
}

// now returns the time, without jumps forward of the machine's clock since the
// process started.
func (c clock) now() time.Time {
	now := time.Now()
	wall, steady := now.Round(0), c.wall.Add(now.Sub(c.began))
	if wall.After(steady) {
		return steady
	}
	return wall
}

// trusted reports whether content may be removed because of its age.
func (c clock) trusted() bool {
	return time.Since(c.began) >= clockGrace && time.Now().After(clockFloor)
}
