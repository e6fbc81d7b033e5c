package index

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
)

// Delivery says that a source has itself delivered content, whole and with the
// right digest. Without it, stored content must not be linked to scopes of the
// source without a transfer. A source's claim that it has the content proves
// nothing.
type Delivery struct {
	Size int64 `json:"size"` // in bytes
}

// Delivery returns the delivery of content by a scope's source, to this scope
// or to another one. If the source has not delivered it, the error is
// fs.ErrNotExist.
func (x *Index) Delivery(ctx context.Context, scope string, d digest.Digest) (Delivery, error) {
	source, _ := sourceOf(scope)
	return recall(ctx, x, x.deliveries, deliveryKey(source, d), func(*Delivery) error { return nil })
}

// AddDelivery records that a scope's source has delivered content, and links
// the scope to it. After an error not all of that is on disk, but it holds
// until the process ends.
func (x *Index) AddDelivery(ctx context.Context, scope string, d digest.Digest, link Link) error {
	known, lerr := x.Link(ctx, scope, d)
	// The link comes first: a scope with a delivery alone asks the source.
	err := x.AddLink(ctx, scope, d, link)
	if x.shared != nil && lerr == nil && known.Size == link.Size {
		return err // a shared link has a shared delivery, which need not be looked up
	}
	return errors.Join(err, x.NoteDelivery(ctx, scope, d, link.Size))
}

// NoteDelivery records that a scope's source has delivered content of a size in bytes, but
// does not link the scope to it. After an error, the delivery is not on disk, but counts
// until the process ends.
func (x *Index) NoteDelivery(ctx context.Context, scope string, d digest.Digest, size int64) error {
	delivery := Delivery{Size: size}
	if known, err := x.Delivery(ctx, scope, d); err == nil && known == delivery {
		return nil
	}
	source, _ := sourceOf(scope)
	key := deliveryKey(source, d)
	x.deliveries.Add(key, delivery)
	return save(ctx, x.records, key, delivery)
}
