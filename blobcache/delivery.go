package blobcache

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Delivery says that a source has itself delivered some content, whole and with
// the right digest. Only then may stored content be linked to scopes of the source
// without a transfer. A source's claim that it has the content proves nothing.
type Delivery struct {
	Size int64 `json:"size"` // in bytes
}

const deliveriesFolder = "deliveries"

// deliveryKey spreads the records over folders as content is: a source may have
// delivered all of it.
func deliveryKey(source string, d digest.Digest) string {
	hex := d.Encoded()
	return deliveriesFolder + "/" + source + "/_/" + d.Algorithm().String() + "/" + hex[:2] + "/" + hex
}

// parseDeliveryKey returns the digest in a key of deliveryKey.
func parseDeliveryKey(key string) (d digest.Digest, ok bool) {
	rest, hex, ok1 := cutLast(key, "/")
	rest, _, ok2 := cutLast(rest, "/")
	_, algorithm, ok3 := cutLast(rest, "/")
	d = digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	return d, ok1 && ok2 && ok3 && d.Validate() == nil
}

// sourceOf returns the source of a scope, without the repository.
func sourceOf(scope string) (source, repository string) {
	_, rest, _ := strings.Cut(scope, "/_/")
	source, repository, _ = strings.Cut(rest, "/")
	return source, repository
}

// Delivery returns what is known of the delivery of some content by a scope's
// source, to this scope or to another one; an error that is fs.ErrNotExist if it
// has not delivered it.
func (x *Index) Delivery(ctx context.Context, scope string, d digest.Digest) (Delivery, error) {
	source, _ := sourceOf(scope)
	return recall(ctx, x, x.deliveries, deliveryKey(source, d), func(Delivery) error { return nil })
}

// AddDelivery records that a scope's source has delivered some content, of a size
// in bytes, and links the scope to it. An error means that not all of that is on
// disk; until the process ends it holds all the same.
func (x *Index) AddDelivery(ctx context.Context, scope string, d digest.Digest, link Link) error {
	// The link comes first: who sees the delivery alone asks the source.
	err := x.AddLink(ctx, scope, d, link)
	delivery := Delivery{Size: link.Size}
	if known, kerr := x.Delivery(ctx, scope, d); kerr == nil && known == delivery {
		return err
	}
	source, _ := sourceOf(scope)
	key := deliveryKey(source, d)
	x.deliveries.Add(key, delivery)
	return errors.Join(err, save(ctx, x.records, key, delivery))
}

// forgetDeliveries removes the records of content that has gone, as links go.
func (q *Quotas) forgetDeliveries(ctx context.Context, m *measurement) error {
	visited := 0
	return q.index.records.List(ctx, deliveriesFolder, func(r Record) error {
		if visited++; visited%sweepStride == 0 && !pause(ctx, sweepPause) {
			return ctx.Err()
		}
		d, ok := parseDeliveryKey(r.Key)
		if !ok || m.began.Sub(r.Used) <= idleAfter {
			return nil
		}
		if _, err := q.cache.blobs.Stat(ctx, d); !errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		err := q.index.records.Delete(ctx, r.Key)
		q.index.drops.Add(1)
		q.index.deliveries.Remove(r.Key)
		return err
	})
}
