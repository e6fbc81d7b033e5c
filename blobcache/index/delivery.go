package index

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
)

// Delivery says that a source has itself delivered some content, whole and with
// the right digest. Only then may stored content be linked to scopes of the source
// without a transfer. A source's claim that it has the content proves nothing.
type Delivery struct {
	Size int64 `json:"size"` // in bytes
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
