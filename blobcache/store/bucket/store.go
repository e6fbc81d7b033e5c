package bucket

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
)

// Store implements [store.Blobs] and [store.Records] with a local tier and a bucket.
// It uploads while [Store.Keep] runs. Walk, Stat, Check, Touch and Free are about the
// local tier.
type Store struct {
	*store.FileStore

	config        Config
	client        *client
	shared        map[string]bool // first components of the keys of shared records
	reads, writes *health
	blobs         *queue
	records       *queue
	asked         *memo.Cache[struct{}]                // which records the bucket does not have
	reloaded      *memo.Cache[[]byte]                  // what Reload has returned
	held          *lru.Cache[digest.Digest, held]      // what was fetched from the bucket lately
	evicted       *lru.Cache[digest.Digest, time.Time] // when content was used that was removed locally
	verified      *memo.Cache[object]                  // content for which there are signed URLs
	seed          maphash.Seed
	locks         [64]keyLock // by key: of the local tier and the queue together
	limits        limits
	pulls         pulls

	// objectReported is when reportObject has reported an object, in seconds since 1970.
	objectReported atomic.Int64

	// unread is the number of sweeps since the last success that have ended because a report
	// could not be read.
	unread atomic.Int32

	// complete is set while all local records that may not be in the bucket are in
	// the queue or have been.
	complete atomic.Bool
	keyID    atomic.Value // string: of the key in use when they were looked for
}

// sharedFolders are the first components of the keys of the records that the nodes share.
// Other records stay on the local disk.
var sharedFolders = []string{"links", "refs", "deliveries", "purges", "verified"}

// limits are the limits of [Store.LimitOwners], by an address of its own for each call.
type limits struct {
	sync.Mutex
	all map[*byte]map[string]int64
}

// keyLock locks some of the keys and counts their deletions.
type keyLock struct {
	sync.Mutex
	deletions int
}

// Interface guards
var (
	_ store.Blobs     = (*Store)(nil)
	_ store.Records   = (*Store)(nil)
	_ store.Tiered    = (*Store)(nil)
	_ store.Sheltered = (*Store)(nil)
	_ store.Limited   = (*Store)(nil)
)

// heldEntries is the number of contents of the bucket that need not be uploaded when they
// are stored, since they were fetched from there in the last heldFor.
const (
	heldEntries = 4 << 10
	heldFor     = time.Hour
)

// held is content that the bucket had.
type held struct {
	size int64
	at   time.Time
}

// Open returns a store. It does not ask the bucket, which may be down.
func Open(c Config) (*Store, error) {
	if c.Local == nil || c.Credentials == nil || c.Keys == nil || c.Bucket == "" || c.Endpoint == "" {
		return nil, errors.New("a bucket needs a local tier, an endpoint, a name, credentials and keys")
	}
	c = c.withDefaults()
	api, err := newClient(c)
	if err != nil {
		return nil, err
	}
	s := &Store{FileStore: c.Local, config: c, client: api, shared: make(map[string]bool), seed: maphash.MakeSeed()}
	if s.held, err = lru.New[digest.Digest, held](heldEntries); err != nil {
		return nil, err
	}
	if s.evicted, err = lru.New[digest.Digest, time.Time](evictedEntries); err != nil {
		return nil, err
	}
	for _, folder := range sharedFolders {
		s.shared[folder] = true
	}
	s.reads = newHealth(c.waits, func(err error) { c.StorageError("read from the bucket", err) })
	s.writes = newHealth(c.waits, func(err error) { c.StorageError("write to the bucket", err) })
	failed := func(name string, err error) { c.StorageError("upload "+name+" to the bucket", err) }
	s.blobs = newQueue(s.writes, s.changeBlob, failed)
	s.records = newQueue(s.writes, s.changeRecord, failed)
	s.asked, s.reloaded = newMemories(c.waits)
	s.verified = newVerified(c.waits)
	return s, nil
}

// blobUploads and recordUploads are the numbers of blobs and records that are uploaded at once.
const (
	blobUploads   = 4
	recordUploads = 8
)

// Keep uploads what is stored and not yet in the bucket, until ctx ends. It looks
// through the local tier at the start, for what an earlier process has not uploaded. When
// ctx ends, Keep goes on for at most five seconds, unless the bucket fails, and leaves
// the rest to the next process.
func (s *Store) Keep(ctx context.Context) {
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var all sync.WaitGroup
	all.Go(func() {
		defer stop()
		<-ctx.Done()
		flushing, cancel := context.WithTimeout(working, s.config.waits.flush)
		defer cancel()
		s.flush(flushing)
	})
	all.Go(func() { s.blobs.work(working, blobUploads) })
	all.Go(func() { s.records.work(working, recordUploads) })
	all.Go(func() {
		s.keepComplete(ctx, s.blobs, s.findBlobs, func(context.Context) bool { return false })
	})
	all.Go(func() {
		s.keepComplete(ctx, s.records, func(ctx context.Context) error {
			s.complete.Store(false)
			err := s.findRecords(ctx)
			s.complete.Store(err == nil)
			return err
		}, s.rotated)
	})
	all.Go(func() { s.keepMark(ctx) })
	all.Go(func() { s.keepSwept(ctx) })
	all.Wait()
}

// flush waits until all is uploaded but for objects that fail, until ctx ends, or until
// the bucket fails.
func (s *Store) flush(ctx context.Context) {
	for _, q := range []*queue{s.records, s.blobs} {
		for settled := q.await(true); ; {
			if since, _ := s.writes.state(); !since.IsZero() {
				return
			}
			timer := time.NewTimer(s.config.waits.pause)
			select {
			case <-settled:
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
				continue
			}
			timer.Stop()
			break
		}
	}
}

// keepComplete calls find at the start and until it succeeds, and again whenever
// changes did not fit the queue and there is room now, or when due says so.
func (s *Store) keepComplete(ctx context.Context, q *queue, find func(context.Context) error, due func(context.Context) bool) {
	for wanted := true; ; {
		if wanted {
			err := find(ctx)
			if wanted = err != nil; wanted && ctx.Err() == nil {
				s.config.StorageError("look for what is to be uploaded", err)
			}
		}
		if !store.Pause(ctx, s.config.waits.rescan) {
			return
		}
		if now := q.status(); now.lost && now.n < q.limit/2 {
			wanted = true
			q.recover()
		}
		wanted = wanted || due(ctx)
	}
}

// String describes the bucket.
func (s *Store) String() string {
	return fmt.Sprintf("s3 %s/%s/%s", s.config.Endpoint, s.config.Bucket, s.config.Prefix)
}

// lock locks the key of a record.
func (s *Store) lock(key string) *keyLock {
	l := &s.locks[maphash.String(s.seed, key)%uint64(len(s.locks))]
	l.Lock()
	return l
}

// blobName returns the name of the object of content.
func blobName(d digest.Digest) string { return "blobs/" + digestPath(d) }

// uploadedKey returns the key of the local record that content is in the bucket.
func uploadedKey(d digest.Digest) string { return "uploaded/" + digestPath(d) }

// digestPath returns ALGORITHM/ab/abcd….
func digestPath(d digest.Digest) string {
	return d.Algorithm().String() + "/" + d.Encoded()[:2] + "/" + d.Encoded()
}
