package bucket

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
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
	asked         *memo.Cache[struct{}]            // which records the bucket does not have
	held          *lru.Cache[digest.Digest, int64] // sizes of what was fetched from the bucket lately
	seed          maphash.Seed
	locks         [64]keyLock // by key: of the local tier and the queue together
	limits        limits

	// complete is set while all local records that may not be in the bucket are in
	// the queue or have been.
	complete atomic.Bool
	keyID    atomic.Value // string: of the key in use when they were looked for
}

// limits are the limits of [Store.LimitOwners], by the address of anything.
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

// absentEntries is the number of records that are remembered as absent. They take
// some 10 MiB.
const absentEntries = 32 << 10

// heldEntries is the number of contents of the bucket that need not be uploaded when they
// are stored, since they were fetched from there.
const heldEntries = 4 << 10

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
	if s.held, err = lru.New[digest.Digest, int64](heldEntries); err != nil {
		return nil, err
	}
	for _, folder := range c.Folders {
		s.shared[folder] = true
	}
	s.reads = &health{waits: c.waits, failed: func(err error) { c.StorageError("read from the bucket", err) }}
	s.writes = &health{waits: c.waits, failed: func(err error) { c.StorageError("write to the bucket", err) }}
	s.blobs = newQueue(s.writes, s.changeBlob)
	s.records = newQueue(s.writes, s.changeRecord)
	s.asked = memo.New(memo.Config[struct{}]{
		Size:    absentEntries,
		Timeout: c.waits.record,
		Judge: func(err error) (memo.Verdict, time.Duration) {
			if errors.Is(err, fs.ErrNotExist) {
				return memo.Refused, c.waits.absent
			}
			return memo.Failed, 0
		},
	})
	return s, nil
}

// recordUploads is the number of records that are uploaded at once.
const recordUploads = 8

// Keep uploads what is stored and not yet in the bucket, until ctx ends. It looks
// through the local tier at the start, for what an earlier process has not uploaded.
func (s *Store) Keep(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { s.blobs.work(ctx, s.config.Uploads) })
	all.Go(func() { s.records.work(ctx, recordUploads) })
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

// Flush waits until all is uploaded, or until ctx ends. Keep must be running.
func (s *Store) Flush(ctx context.Context) {
	for _, q := range []*queue{s.records, s.blobs} {
		select {
		case <-q.drained():
		case <-ctx.Done():
			return
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
		n, lost := q.size()
		if lost && n < q.limit/2 {
			wanted = true
			q.recover()
		}
		wanted = wanted || due(ctx)
	}
}

// Status describes a bucket and what is to be uploaded.
type Status struct {
	Bucket string // its name, with the prefix
	// Blobs and Records are the numbers of changes that wait or are under way. More
	// may wait that did not fit the queues if Overflow is set.
	Blobs, Records int
	Overflow       bool

	// ReadError and WriteError are the last failures of reads and writes, with the
	// times when they began to fail, or zero if they work.
	ReadError, WriteError     error
	ReadsFailed, WritesFailed time.Time
}

// Status returns the present state.
func (s *Store) Status() Status {
	status := Status{Bucket: s.String()}
	var lostBlobs, lostRecords bool
	status.Blobs, lostBlobs = s.blobs.size()
	status.Records, lostRecords = s.records.size()
	status.Overflow = lostBlobs || lostRecords
	status.ReadsFailed, status.ReadError = s.reads.state()
	status.WritesFailed, status.WriteError = s.writes.state()
	return status
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
func blobName(d digest.Digest) string {
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded()[:2] + "/" + d.Encoded()
}

// uploadedKey returns the key of the local record that content is in the bucket.
func uploadedKey(d digest.Digest) string {
	return "uploaded/" + d.Algorithm().String() + "/" + d.Encoded()[:2] + "/" + d.Encoded()
}
