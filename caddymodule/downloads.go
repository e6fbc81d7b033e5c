package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// Downloads bound the blobs that are being fetched from an upstream. A pull that
// would start one download too many is refused with 503 and Retry-After; a pull of
// what is stored, or of what is being fetched already, is not.
type Downloads struct {
	// Max is how many there may be at a time, those that are passed on without
	// being stored included: 256 by default.
	Max int `json:"max,omitempty"`

	// MaxPerGroup is how many of them one group may have started: by default a
	// quarter of Max. A group that is not declared counts as the nearest declared
	// group above it, or as its first component if there is none, so that creating
	// subgroups does not raise the limit.
	MaxPerGroup int `json:"max_per_group,omitempty"`

	// MinRate is how many bytes a second a download must bring on average while
	// clients wait for it, or else it ends: 16 KiB by default. -1 means no minimum.
	MinRate int64 `json:"min_rate,omitempty"`

	// MinRateUnread is the same for a download that all clients have left: 256 KiB
	// by default.
	MinRateUnread int64 `json:"min_rate_unread,omitempty"`

	// RateWindow is the time over which both are averaged: 5m by default.
	RateWindow caddy.Duration `json:"rate_window,omitempty"`

	// StallTimeout is how long a download may bring nothing at all, however often
	// the upstream is asked to go on, before it ends: 1m by default. After half of
	// that another connection is tried.
	StallTimeout caddy.Duration `json:"stall_timeout,omitempty"`
}

const (
	// mostDownloads bounds what can be configured: each takes two descriptors.
	mostDownloads = 100_000

	// leastWindow is the shortest time that says anything about an upstream.
	leastWindow = time.Second

	// busyInterval is how often an upstream that has too many downloads under way
	// is logged at most.
	busyInterval = time.Minute
)

func (b *Downloads) check() error {
	switch {
	case b.Max < 0 || b.Max > mostDownloads:
		return fmt.Errorf("downloads: max is a number from 1 to %d", mostDownloads)
	case b.MaxPerGroup < 0 || b.MaxPerGroup > cmp.Or(b.Max, blobcache.DefaultFills):
		return fmt.Errorf("downloads: max_per_group is a number from 1 to max, which is %d", cmp.Or(b.Max, blobcache.DefaultFills))
	case b.MinRate < -1 || b.MinRateUnread < -1:
		return errors.New("downloads: min_rate and min_rate_unread are bytes a second, or -1 for none")
	case b.RateWindow != 0 && time.Duration(b.RateWindow) < leastWindow || b.StallTimeout != 0 && time.Duration(b.StallTimeout) < leastWindow:
		return fmt.Errorf("downloads: rate_window and stall_timeout are at least %v", leastWindow)
	}
	return nil
}

// limits returns what the cache is to keep to. What is 0 is the cache's default.
func (b *Downloads) limits() blobcache.SourceLimits {
	return blobcache.SourceLimits{
		Fills:         b.Max,
		GroupFills:    b.MaxPerGroup,
		MinRate:       b.MinRate,
		MinRateUnread: b.MinRateUnread,
		RateWindow:    time.Duration(b.RateWindow),
		Stall:         time.Duration(b.StallTimeout),
	}
}

// UnmarshalCaddyfile reads
//
//	downloads {
//		max             <number>
//		max_per_group   <number>
//		min_rate        <size>|off
//		min_rate_unread <size>|off
//		rate_window     <duration>
//		stall_timeout   <duration>
//	}
func (b *Downloads) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if err := parse.End(d); err != nil {
		return err
	}
	err := parse.Lines(d, "downloads", map[string]func(*caddyfile.Dispenser) error{
		"max":             func(d *caddyfile.Dispenser) error { return parse.Int(d, mostDownloads, &b.Max) },
		"max_per_group":   func(d *caddyfile.Dispenser) error { return parse.Int(d, mostDownloads, &b.MaxPerGroup) },
		"min_rate":        func(d *caddyfile.Dispenser) error { return parse.SizeOrOff(d, &b.MinRate) },
		"min_rate_unread": func(d *caddyfile.Dispenser) error { return parse.SizeOrOff(d, &b.MinRateUnread) },
		"rate_window":     func(d *caddyfile.Dispenser) error { return parse.Duration(d, &b.RateWindow) },
		"stall_timeout":   func(d *caddyfile.Dispenser) error { return parse.Duration(d, &b.StallTimeout) },
	})
	if err != nil {
		return err
	}
	return parse.At(d, b.check())
}

// tooBusy rejects a pull that would start one download or ask one question too
// many, and logs that from time to time.
func (ex *exchange) tooBusy(repo *repository, what, preposition string, err error) *apiError {
	repo.busy.Do(func() {
		ex.h.logger.Warn("too many "+what+" are under way; pulls of what is not stored are refused",
			zap.String("upstream", repo.upstream), zap.String("group", ex.route.group), zap.Error(err))
	})
	e := refuse(unavailable, "too many %s %s %s are under way; try again later", what, preposition, repo.upstream)
	e.retryAfter = retrySoon
	return e
}
