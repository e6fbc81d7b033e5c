package pullthrough

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

const (
	// warmBlobs is how many blobs of an image are downloaded at once, as by clients.
	warmBlobs = 3

	// maxWarmed is how many manifests and blobs an image may have.
	maxWarmed = 10_000

	// maxFailures is how many failures an error lists.
	maxFailures = 10
)

var errTooLarge = fmt.Errorf("the image has more than %d manifests and blobs", maxWarmed)

// Progress is the progress of [Repository.Warm].
type Progress struct {
	Manifests int   `json:"manifests"` // number of manifests and indexes that are cached
	Blobs     int   `json:"blobs"`     // number of blobs that are cached
	Bytes     int64 `json:"bytes"`     // of the blobs that are cached or have come so far
	Total     int64 `json:"total"`     // of all blobs, according to the manifests
	Fetched   int64 `json:"fetched"`   // part of Bytes that was not cached before
}

// Warm pulls an image as a client does, so that the cache has it: the manifest or index
// that a tag or digest names, what it names, and their blobs. Of an index, it pulls the
// given platforms, or all without any. Blobs that the manifest locates elsewhere are
// left out, as clients do not ask for them here.
//
// Warm calls report after each step, from one goroutine at a time. A part that fails
// does not keep the others from being pulled. The error has the first ten failures. Content
// that came, but was not stored because of a limit, is a failure.
func (r *Repository) Warm(ctx context.Context, tag string, d digest.Digest, platforms []Platform, report func(Progress)) error {
	w := &warming{repository: r, platforms: platforms, report: report, seen: make(map[digest.Digest]bool)}
	var m Manifest
	var err error
	if tag != "" {
		m, err = r.ManifestByTag(ctx, tag, true)
	} else {
		m, err = r.ManifestByDigest(ctx, d, true)
	}
	if err != nil {
		return err
	}
	w.seen[m.Digest] = true
	if err := w.walk(ctx, m); err != nil {
		return err
	}
	if len(platforms) > 0 && w.choices > 0 && !w.chosen {
		return fmt.Errorf("the image has no %s", join(platforms))
	}
	var pulls errgroup.Group
	pulls.SetLimit(warmBlobs)
	for _, blob := range w.blobs {
		pulls.Go(func() error {
			w.fail(w.pull(ctx, blob))
			return nil
		})
	}
	_ = pulls.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	w.checkStored(ctx)
	if more := w.failed - len(w.failures); more > 0 {
		w.failures = append(w.failures, fmt.Errorf("%d more failures", more))
	}
	return errors.Join(w.failures...)
}

// warming is a call of Warm.
type warming struct {
	repository *Repository
	platforms  []Platform
	report     func(Progress)

	seen      map[digest.Digest]bool
	manifests []digest.Digest // to be pulled and read
	blobs     []digest.Digest // to be pulled
	choices   int             // number of manifests for a platform that indexes name
	chosen    bool            // whether one of them is wanted

	mu       sync.Mutex
	progress Progress
	failures []error // the first ones
	failed   int     // how many there are
}

// walk pulls the manifests that a manifest or an index names, directly or not, and lists
// their blobs. An error is one that ends Warm.
func (w *warming) walk(ctx context.Context, m Manifest) error {
	if err := w.read(m); err != nil {
		return err
	}
	for len(w.manifests) > 0 { // not recursive, because indexes can be nested to any depth
		d := w.manifests[0]
		w.manifests = w.manifests[1:]
		inner, err := w.repository.ManifestByDigest(ctx, d, true)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			err = w.read(inner)
		}
		if errors.Is(err, errTooLarge) {
			return err
		}
		w.fail(err)
	}
	return nil
}

// read lists what a manifest or an index names.
func (w *warming) read(m Manifest) error {
	children, err := m.Content.children()
	if err != nil {
		return fmt.Errorf("reading %s: %w", m.Digest, err)
	}
	w.advance(func(p *Progress) { p.Manifests++ })
	for _, c := range children {
		if w.seen[c.Digest] || c.external || c.Compound && !w.wants(c) {
			continue
		}
		if len(w.seen) == maxWarmed {
			return errTooLarge
		}
		w.seen[c.Digest] = true
		switch {
		case c.Digest.Validate() != nil:
			w.fail(fmt.Errorf("%s names something by an invalid digest", m.Digest))
		case c.Compound:
			w.manifests = append(w.manifests, c.Digest)
		default:
			w.blobs = append(w.blobs, c.Digest)
			w.advance(func(p *Progress) { p.Total += max(c.size, 0) })
		}
	}
	return nil
}

// wants reports whether a manifest that an index names is to be pulled.
func (w *warming) wants(c child) bool {
	if c.platform == nil || len(w.platforms) == 0 {
		return true
	}
	w.choices++
	wanted := slices.ContainsFunc(w.platforms, func(p Platform) bool { return p.includes(*c.platform) })
	w.chosen = w.chosen || wanted
	return wanted
}

// pull pulls a blob.
func (w *warming) pull(ctx context.Context, blob digest.Digest) error {
	reader, _, err := w.repository.Blob(ctx, blob)
	if err != nil {
		return fmt.Errorf("blob %s: %w", blob, err)
	}
	defer reader.Close()
	if reader.Stored() {
		w.advance(func(p *Progress) { p.Blobs, p.Bytes = p.Blobs+1, p.Bytes+reader.Size() })
		return nil
	}
	if _, err := reader.WriteTo(arrivals{w}); err != nil {
		return fmt.Errorf("blob %s: %w", blob, err)
	}
	w.advance(func(p *Progress) { p.Blobs++ })
	return nil
}

// arrivals counts the bytes of blobs that are being downloaded.
type arrivals struct{ warming *warming }

// Write implements io.Writer.
func (a arrivals) Write(p []byte) (int, error) {
	a.warming.advance(func(progress *Progress) {
		progress.Bytes += int64(len(p))
		progress.Fetched += int64(len(p))
	})
	return len(p), nil
}

// checkStored fails if blobs that were pulled are not stored.
func (w *warming) checkStored(ctx context.Context) {
	cache := w.repository.config.Cache
	cache.Flush(ctx)
	missing := 0
	for _, blob := range w.blobs {
		if _, stored := cache.Has(ctx, blob); !stored {
			missing++
		}
	}
	if missing > 0 && w.failed == 0 {
		w.fail(fmt.Errorf("%d of %d blobs are not stored: a limit of the storage or the quota of the group leaves no room for them, or the disk fails; see the log", missing, len(w.blobs)))
	}
}

// advance changes the progress and reports it.
func (w *warming) advance(change func(*Progress)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.progress)
	w.report(w.progress)
}

// fail notes a failure. It ignores nil.
func (w *warming) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		return
	}
	if w.failed++; len(w.failures) < maxFailures {
		w.failures = append(w.failures, err)
	}
}

// children returns what a manifest or an index names, and closes it.
func (c *Content) children() ([]child, error) {
	defer c.Close()
	if c.File == nil {
		return readChildren(bytes.NewReader(c.Bytes)), nil
	}
	content, err := io.ReadAll(c.File)
	return readChildren(bytes.NewReader(content)), err
}

func join(platforms []Platform) string {
	var names []string
	for _, p := range platforms {
		names = append(names, p.String())
	}
	return strings.Join(names, " or ")
}
