package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// Downloads limits the downloads of blobs from an upstream. A pull that would start
// one download too many is rejected with 503 and Retry-After. The limits do not
// apply to pulls of blobs that are stored or are being downloaded already.
type Downloads struct {
	// Max is the number of downloads at a time, including those of blobs that
	// are not stored: from 1 to 100000, by default 256.
	Max int `json:"max,omitempty"`

	// MaxPerGroup is the number of downloads at a time that one group may have
	// started: from 1 to Max, by default a quarter of Max. A group that is not
	// declared counts as the nearest declared group above it or, without one, as
	// its first component, so that creating subgroups does not raise the limit.
	MaxPerGroup int `json:"max_per_group,omitempty"`

	// MinRate is the average rate, in bytes per second, below which a download
	// ends while clients wait for it. The default is 16 KiB; -1 means no minimum.
	MinRate int64 `json:"min_rate,omitempty"`

	// MinRateUnread is the average rate, in bytes per second, below which a
	// download ends after all of its clients have left. The default is 256 KiB;
	// -1 means no minimum.
	MinRateUnread int64 `json:"min_rate_unread,omitempty"`

	// RateWindow is the time over which the rates are averaged: at least 1s, by
	// default 5m.
	RateWindow caddy.Duration `json:"rate_window,omitempty"`

	// StallTimeout is the time after which a download that receives no new bytes
	// ends, resumes included: at least 1s, by default 1m. After half of it, the
	// download continues on a new connection.
	StallTimeout caddy.Duration `json:"stall_timeout,omitempty"`
}

const (
	// maxDownloads is the limit of Max. Each download takes two file descriptors.
	maxDownloads = 100_000

	// minWindow is the limit of RateWindow and StallTimeout.
	minWindow = time.Second

	// busyInterval is the time between two log lines about an upstream with too
	// many downloads.
	busyInterval = time.Minute
)

func (l *Downloads) check() error {
	switch {
	case l.Max < 0 || l.Max > maxDownloads:
		return fmt.Errorf("downloads: max must be a number from 1 to %d", maxDownloads)
	case l.MaxPerGroup < 0 || l.MaxPerGroup > cmp.Or(l.Max, fill.DefaultFills):
		return fmt.Errorf("downloads: max_per_group must be a number from 1 to max, which is %d", cmp.Or(l.Max, fill.DefaultFills))
	case l.MinRate < -1 || l.MinRateUnread < -1:
		return errors.New("downloads: min_rate and min_rate_unread must be a number of bytes per second, or -1 for no minimum")
	case l.RateWindow != 0 && time.Duration(l.RateWindow) < minWindow || l.StallTimeout != 0 && time.Duration(l.StallTimeout) < minWindow:
		return fmt.Errorf("downloads: rate_window and stall_timeout must be at least %v", minWindow)
	}
	return nil
}

// limits returns the limits for the cache, in which 0 means the default.
func (l *Downloads) limits() fill.SourceLimits {
	return fill.SourceLimits{
		Fills:         l.Max,
		GroupFills:    l.MaxPerGroup,
		MinRate:       l.MinRate,
		MinRateUnread: l.MinRateUnread,
		RateWindow:    time.Duration(l.RateWindow),
		Stall:         time.Duration(l.StallTimeout),
	}
}

// UnmarshalCaddyfile parses
//
//	downloads {
//		max             <number>
//		max_per_group   <number>
//		min_rate        <size>|off
//		min_rate_unread <size>|off
//		rate_window     <duration>
//		stall_timeout   <duration>
//	}
func (l *Downloads) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if err := parse.End(d); err != nil {
		return err
	}
	err := parse.Lines(d, "downloads", map[string]func(*caddyfile.Dispenser) error{
		"max":             func(d *caddyfile.Dispenser) error { return parse.Int(d, maxDownloads, &l.Max) },
		"max_per_group":   func(d *caddyfile.Dispenser) error { return parse.Int(d, maxDownloads, &l.MaxPerGroup) },
		"min_rate":        func(d *caddyfile.Dispenser) error { return parse.SizeOrOff(d, &l.MinRate) },
		"min_rate_unread": func(d *caddyfile.Dispenser) error { return parse.SizeOrOff(d, &l.MinRateUnread) },
		"rate_window":     func(d *caddyfile.Dispenser) error { return parse.Duration(d, &l.RateWindow) },
		"stall_timeout":   func(d *caddyfile.Dispenser) error { return parse.Duration(d, &l.StallTimeout) },
	})
	if err != nil {
		return err
	}
	return parse.At(d, l.check())
}
