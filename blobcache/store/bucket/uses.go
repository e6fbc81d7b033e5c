package bucket

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// Each node writes which content it has used on a day to an object of its own,
//
//	PREFIX used/DAY/NODE
//
// with a digest on each line. So a pull costs no request to the bucket. When the content
// was used is taken from the time of the object, not from the clock of the node. A node
// that has used nothing writes an empty object, so that others see that it has reported.
const (
	usedFolder = "used/"
	dayFormat  = time.DateOnly
	day        = 24 * time.Hour

	// nodeKey is the local record of the name of this node, and reportedKey that of the
	// time, by the clock of this machine, until which it has reported what it used.
	nodeKey     = "bucket/node"
	reportedKey = "bucket/reported_until"

	// usesSlack is by how much the recorded time of a use may be before that when it was
	// written to the disk.
	usesSlack = time.Hour

	// evictedEntries is the number of contents that were removed from the local tier and
	// are reported nevertheless, until the process ends. They take some 10 MiB.
	evictedEntries = 32 << 10

	// maxUsed bounds the digests that a node writes for a day, some 72 MB.
	maxUsed = 1 << 20
)

// nodeName returns a random name that stays the same for a local directory.
func (s *Store) nodeName(ctx context.Context) (string, error) {
	name, err := s.FileStore.Load(ctx, nodeKey)
	if err == nil && len(name) > 0 {
		return string(name), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	text := strings.ToLower(rand.Text())
	return text, s.FileStore.Save(ctx, nodeKey, []byte(text))
}

// reported returns until when this node has reported what it used, or the zero time.
func (s *Store) reported(ctx context.Context) time.Time {
	text, err := s.FileStore.Load(ctx, reportedKey)
	if err != nil {
		return time.Time{}
	}
	at, _ := time.Parse(time.RFC3339, string(text))
	return at
}

// walkUsed visits local content, content that was removed from the local tier lately, and
// content of which there were signed URLs here, with the times of their last uses. It may
// visit content twice.
func (s *Store) walkUsed(ctx context.Context, visit func(d digest.Digest, used time.Time) error) error {
	err := s.FileStore.Walk(ctx, store.Paced(ctx, store.WalkStride, func(e store.Entry) error { return visit(e.Digest, e.Used) }))
	if err != nil {
		return err
	}
	for _, d := range s.evicted.Keys() {
		if used, ok := s.evicted.Peek(d); ok {
			if err := visit(d, used); err != nil {
				return err
			}
		}
	}
	return s.FileStore.List(ctx, strings.TrimSuffix(verifiedFolder, "/"), store.Paced(ctx, store.WalkStride, func(r store.Record) error {
		if d, ok := parseVerifiedKey(r.Key); ok {
			return visit(d, r.Used)
		}
		return nil
	}))
}

// saveUses writes which content was used on the day of now, by the clock and the times
// of the local tier, and what was used before and not reported. If other nodes may
// not have waited for the report, it looks whether the content is still in the bucket.
func (s *Store) saveUses(ctx context.Context, now time.Time) error {
	node, err := s.nodeName(ctx)
	if err != nil {
		return err
	}
	began, last := now.UTC().Truncate(day), s.reported(ctx)
	if since := last.Add(-usesSlack); since.Before(began) {
		began = since
	}
	late := !last.IsZero() && now.Sub(last) > overdue
	var lines bytes.Buffer
	n := 0
	err = s.walkUsed(ctx, func(d digest.Digest, used time.Time) error {
		if used.Before(began) || n >= maxUsed {
			return nil
		}
		n++
		lines.WriteString(d.String())
		lines.WriteByte('\n')
		return nil
	})
	if err != nil {
		return err
	}
	name := usedFolder + now.UTC().Format(dayFormat) + "/" + node
	if err := s.client.putBytes(ctx, name, lines.Bytes()); err != nil {
		return fmt.Errorf("write to the bucket what was used: %w", err)
	}
	if late {
		for line := range bytes.Lines(lines.Bytes()) {
			if err := s.uploadAgain(ctx, digest.Digest(bytes.TrimSpace(line))); err != nil {
				return err
			}
		}
	}
	return s.FileStore.Save(ctx, reportedKey, []byte(now.UTC().Format(time.RFC3339)))
}

// uploadAgain uploads content unless it is in the bucket, even if it has been.
func (s *Store) uploadAgain(ctx context.Context, d digest.Digest) error {
	if err := s.FileStore.Delete(ctx, uploadedKey(d)); err != nil {
		return err
	}
	s.held.Remove(d)
	s.blobs.add(d.String(), write) // or it is found when the queue has room
	return nil
}

// report is an object of used/.
type report struct {
	name     string
	node     string
	modified time.Time // by the clock of the bucket
	merged   bool      // from reports of all nodes; see mergeReports
}

// listReports returns the reports of all nodes. It removes those that are older than
// keep.
func (w *sweeping) listReports(ctx context.Context, keep time.Duration) (reports []report, err error) {
	err = w.list(ctx, usedFolder, func(name string, o object) error {
		text, node, _ := strings.Cut(strings.TrimPrefix(name, usedFolder), "/")
		merged := strings.HasPrefix(name, mergedFolder)
		if _, err := time.Parse(dayFormat, text); err != nil && !merged {
			return nil // not one of ours
		}
		if w.bucketNow().Sub(o.modified) > keep {
			return w.remove(ctx, name)
		}
		if len(reports) >= maxReports {
			return errTooMany
		}
		reports = append(reports, report{name, node, o.modified, merged})
		return nil
	})
	return reports, err
}

// readUses adds what is in the reports that were written after a time. The error is
// errMerged if one of them has gone.
func (w *sweeping) readUses(ctx context.Context, reports []report, after time.Time) error {
	for _, r := range reports {
		if !r.modified.After(after) {
			continue
		}
		if err := w.pace(ctx); err != nil {
			return err
		}
		err := w.readReport(ctx, r)
		if errors.Is(err, fs.ErrNotExist) {
			if err := w.findMerged(ctx, reports); err != nil {
				return err
			}
			continue // the bucket has lost it
		}
		if err != nil && w.stuck && w.unread.Load() >= unreadSweeps {
			err = w.skip(err)
		}
		if err != nil {
			w.unread.Add(1)
			return fmt.Errorf("read from the bucket what was used: %w", err)
		}
		w.read[r.name] = r // mergeReports removes those too that cannot be read
	}
	w.uses.merge()
	return nil
}

func (w *sweeping) readReport(ctx context.Context, r report) error {
	body, _, err := w.client.get(ctx, r.name, 0, -1)
	if err != nil {
		return err
	}
	defer body.Close()
	if r.merged {
		return w.readMerged(body)
	}
	lines := bufio.NewScanner(io.LimitReader(body, maxUsed*128))
	for lines.Scan() {
		if d := digest.Digest(lines.Text()); d.Validate() == nil {
			if err := w.uses.add(d, hourOf(r.modified)); err != nil {
				return err
			}
		}
	}
	return lines.Err()
}

// readLocal adds what is used here, whether it was reported or not.
func (w *sweeping) readLocal(ctx context.Context) error {
	ahead := time.Until(w.bucketNow()) // of the clock of the bucket
	err := w.walkUsed(ctx, func(d digest.Digest, used time.Time) error {
		return w.uses.add(d, min(hourOf(used.Add(ahead)), hourOf(w.began)))
	})
	w.uses.merge()
	return err
}
