package fill

import (
	"cmp"
	"context"
	"io"
	"time"
)

// Body is the result of a Fetch: the content from Offset to End.
type Body struct {
	io.ReadCloser

	// Size is the size of the whole content in bytes, or -1 if it is not known.
	Size int64

	// Offset is where the body starts. It is 0 if the source could not start at
	// the requested offset.
	Offset int64

	// End is where the body stops, or 0 if it goes on to the end of the
	// content.
	End int64

	// ETag is the source's validator for a later resume. It may be empty.
	ETag string

	// Plain is set if anyone on the way may have written the body: it came over
	// plain HTTP although the source speaks HTTPS. Its bytes are handed out
	// only as part of the whole content, whose digest is verified before its
	// end.
	Plain bool
}

// Fetch asks the source for length bytes of the content from an offset, or for
// the rest of it if length is -1. A source may return more or less; the Body
// says what it is. The etag is that of an earlier Body, or empty at the first
// call. A fill calls Fetch after the request that started it may have ended,
// and for several ranges at once if the request allows it. When ctx ends, the
// call must end, and so must later reads of its Body.
type Fetch func(ctx context.Context, offset, length int64, etag string) (*Body, error)

// SourceLimits bounds what the transfers from an endpoint may take of this
// process, for all requests together and however slow or hostile the endpoint
// is. Zeros stand for the defaults.
type SourceLimits struct {
	// Fills is the number of concurrent transfers from the endpoint: fills, and
	// content that is passed on without being stored. The default is 256.
	Fills int

	// GroupFills is the number of them that one group may have started. The
	// default is a quarter of Fills.
	GroupFills int

	// MinRate is the average rate in bytes per second, over RateWindow, below
	// which a transfer with readers is ended. A negative number means no
	// minimum. The default is 16 KiB.
	MinRate int64

	// MinRateUnread is the same for a transfer without readers. The default is
	// 256 KiB.
	MinRateUnread int64

	// RateWindow is the time over which rates are averaged. The default is 5
	// minutes.
	RateWindow time.Duration

	// Stall is how long a transfer may wait for a byte that has not come before,
	// resumes included. Waiting for bytes that a source without ranges repeats for the
	// first time does not count. The default is a minute. A connection that is silent
	// for half of that is replaced.
	Stall time.Duration
}

// Defaults of [SourceLimits].
const (
	DefaultFills         = 256
	DefaultGroupShare    = 4
	DefaultMinRate       = 16 << 10
	DefaultMinRateUnread = 256 << 10
	DefaultRateWindow    = 5 * time.Minute
	DefaultStall         = time.Minute
)

// withDefaults returns the limits with defaults in place of zeros.
func (l SourceLimits) withDefaults() SourceLimits {
	l.Fills = cmp.Or(l.Fills, DefaultFills)
	l.GroupFills = cmp.Or(l.GroupFills, max(l.Fills/DefaultGroupShare, 1))
	l.MinRate = cmp.Or(l.MinRate, DefaultMinRate)
	l.MinRateUnread = cmp.Or(l.MinRateUnread, DefaultMinRateUnread)
	l.RateWindow = cmp.Or(l.RateWindow, DefaultRateWindow)
	l.Stall = cmp.Or(l.Stall, DefaultStall)
	return l
}
