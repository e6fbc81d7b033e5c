package blobcache

import (
	"cmp"
	"time"
)

// SourceLimits bound what the fills from an endpoint may take of this process,
// however slow or hostile the endpoint is, for all requests together. A zero
// stands for the default.
type SourceLimits struct {
	// Fills is how many transfers from the endpoint there may be at a time:
	// fills, and content that is passed on without being stored. The default
	// is 256.
	Fills int

	// GroupFills is how many of them one group may have started. The default
	// is a quarter of Fills.
	GroupFills int

	// MinRate is how many bytes a second a transfer must bring, averaged over
	// RateWindow, while somebody reads it; a negative number means no minimum. The
	// default is 16 KiB.
	MinRate int64

	// MinRateUnread is the same while nobody reads it. The default is 256 KiB.
	MinRateUnread int64

	// RateWindow is 5 minutes by default.
	RateWindow time.Duration

	// Stall is how long a transfer may bring nothing, resumes included: a minute
	// by default. A connection that is silent for half of that is given up for
	// another one.
	Stall time.Duration
}

// The defaults of [SourceLimits].
const (
	DefaultFills         = 256
	DefaultGroupShare    = 4
	DefaultMinRate       = 16 << 10
	DefaultMinRateUnread = 256 << 10
	DefaultRateWindow    = 5 * time.Minute
	DefaultStall         = time.Minute
)

// withDefaults returns the limits with nothing left open.
func (l SourceLimits) withDefaults() SourceLimits {
	l.Fills = cmp.Or(l.Fills, DefaultFills)
	l.GroupFills = cmp.Or(l.GroupFills, max(l.Fills/DefaultGroupShare, 1))
	l.MinRate = cmp.Or(l.MinRate, DefaultMinRate)
	l.MinRateUnread = cmp.Or(l.MinRateUnread, DefaultMinRateUnread)
	l.RateWindow = cmp.Or(l.RateWindow, DefaultRateWindow)
	l.Stall = cmp.Or(l.Stall, DefaultStall)
	return l
}
