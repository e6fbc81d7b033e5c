package usage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// folder is the folder of the records.
const folder = "usage"

func dayOf(t time.Time) int { return int(t.Unix() / int64(24*time.Hour/time.Second)) }

// date returns the date of a day.
func (d day) date() string {
	return time.Unix(int64(d.number)*int64(24*time.Hour/time.Second), 0).UTC().Format(time.DateOnly)
}

// key returns the key of the record of a day. No component of a group is "_".
func (d day) key() string { return folder + "/" + d.group + "/_/" + d.date() }

// parseKey is the reverse of [day.key].
func parseKey(key string) (d day, ok bool) {
	rest, ok1 := strings.CutPrefix(key, folder+"/")
	group, date, ok2 := strings.Cut(rest, "/_/")
	t, err := time.Parse(time.DateOnly, date)
	return day{group, dayOf(t)}, ok1 && ok2 && err == nil
}

// Keep writes what has been counted, once a minute and at the end of ctx, and removes
// old records.
func (r *Recorder) Keep(ctx context.Context) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			final, cancel := context.WithTimeout(context.WithoutCancel(ctx), finalLimit)
			defer cancel()
			r.Write(final)
			return
		case <-ticker.C:
			r.Write(ctx)
		}
	}
}

// Write writes what has been counted since the last call. Only one call may run at a
// time. What cannot be written is kept for the next call.
func (r *Recorder) Write(ctx context.Context) {
	if err := errors.Join(r.writePulls(ctx), r.writeCounts(ctx)); err != nil {
		r.failed(fmt.Errorf("recording what groups pull: %w", err))
	}
}

// writePulls marks the refs of the tags that have been pulled.
func (r *Recorder) writePulls(ctx context.Context) error {
	r.mu.Lock()
	pulls := maps.Clone(r.pulls)
	r.mu.Unlock()
	mark := store.Paced(ctx, store.WalkStride, func(key tag) error { return r.index.MarkRef(ctx, key.scope, key.name, pulls[key]) })
	for key, at := range pulls {
		if err := mark(key); err != nil {
			return err
		}
		// A page finds the time in memory until the index has it.
		r.mu.Lock()
		if r.pulls[key].Equal(at) {
			delete(r.pulls, key)
		}
		r.mu.Unlock()
	}
	return nil
}

func (r *Recorder) writeCounts(ctx context.Context) error {
	if today := dayOf(r.now()); r.swept != today {
		if err := r.sweep(ctx, today); err != nil {
			return err
		}
		r.swept = today
	}
	r.mu.Lock()
	counts := r.counts
	r.counts, r.others = make(map[day]*Traffic), 0
	r.mu.Unlock()
	write := store.Paced(ctx, store.WalkStride, func(key day) error { return r.add(ctx, key, *counts[key]) })
	var failure error
	for key := range counts {
		if failure = write(key); failure != nil {
			break
		}
		delete(counts, key)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, c := range counts {
		r.count(key, *c)
	}
	return failure
}

// add adds traffic to a record. A group that is not declared, and not among the first
// maxOthers, has no record of its own.
func (r *Recorder) add(ctx context.Context, key day, traffic Traffic) error {
	r.mu.Lock()
	declared := r.isDeclared(key.group)
	r.mu.Unlock()
	if !declared && !r.known[key.group] {
		if len(r.known) >= maxOthers {
			key.group = Other
		} else {
			r.known[key.group] = true
		}
	}
	sum, err := r.load(ctx, key)
	if err != nil {
		return err
	}
	sum.add(traffic)
	data, err := json.Marshal(sum)
	if err != nil {
		return err
	}
	return r.records.Save(ctx, key.key(), data)
}

// load returns the record of a day. A record that is damaged is as good as absent.
func (r *Recorder) load(ctx context.Context, key day) (sum Traffic, err error) {
	data, err := r.records.Load(ctx, key.key())
	if errors.Is(err, fs.ErrNotExist) {
		return Traffic{}, nil
	}
	if err == nil && json.Unmarshal(data, &sum) != nil {
		return Traffic{}, nil
	}
	return sum, err
}

// sweep removes records that are older than keptDays, and notes which groups that
// are not declared have records.
func (r *Recorder) sweep(ctx context.Context, today int) error {
	known := make(map[string]bool)
	err := r.records.List(ctx, folder, store.Paced(ctx, store.WalkStride, func(record store.Record) error {
		d, ok := parseKey(record.Key)
		if !ok || d.number <= today-keptDays {
			return r.records.Delete(ctx, record.Key)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if !r.isDeclared(d.group) {
			known[d.group] = true
		}
		return nil
	}))
	if err == nil {
		r.known = known
	}
	return err
}
