package index

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// proved is the value of linkRecord.Proof of links whose source has delivered the
// content. Links without it are of a version that linked whatever a source said
// that it had.
const proved = 1

// linkRecord is a link as it is kept.
type linkRecord struct {
	Link
	Proof int `json:"proof"`
}

// adoptedKey is the record that says that the links of the former version have
// been looked through.
const adoptedKey = "format/links"

// mixedKey is the record of the repositories whose links of the former version are of
// several sources. It is written before a link is dropped: afterwards the links no longer
// show it to an adoption that is resumed, or that runs at the same time.
const mixedKey = "format/mixed"

// adoptStride is how many links are adopted between two rests: each is written.
const adoptStride = 64

// adoption decides about the links of the former version while they are looked
// through.
type adoption struct {
	trusted map[string]bool   // sources
	source  map[string]string // of each repository's links, "" where there are several
}

// Adopted is what has become of the links of the former version.
type Adopted struct{ Kept, Dropped int }

// Adopt goes through the links of the former version, which linked what a source
// only said that it had, once for all who share the records. Links of trusted
// sources are kept, and count as deliveries, if all links of their repository are
// of one source, and their content is stored with the size that they tell, or with
// the right digest if they tell none. Others are dropped: the next download proves
// them again. Until a link has been looked at, it counts as absent, except those that
// are kept in any case.
func (x *Index) Adopt(ctx context.Context, blobs store.Blobs, trusted []string) (done Adopted, err error) {
	if _, err := x.records.Load(ctx, adoptedKey); !errors.Is(err, fs.ErrNotExist) {
		return done, err
	}
	a := &adoption{trusted: make(map[string]bool), source: make(map[string]string)}
	for _, source := range trusted {
		a.trusted[source] = true
	}
	if err := x.EachLink(ctx, func(l Linked) error {
		a.note(l.Scope)
		return nil
	}); err != nil {
		return done, err
	}
	if err := a.agree(ctx, x.records); err != nil {
		return done, err
	}
	x.adoption.Store(a)
	defer x.adoption.Store(nil)
	err = x.eachLink(ctx, adoptStride, func(l Linked) error {
		return x.adopt(ctx, blobs, a, &done, l)
	})
	if err == nil {
		err = save(ctx, x.records, adoptedKey, done)
	}
	if err != nil {
		return done, err
	}
	return done, x.records.Delete(ctx, mixedKey)
}

// note remembers that a repository of an upstream has links of a source, whoever
// the owner is.
func (a *adoption) note(scope string) {
	repository, source := a.repository(scope)
	if known, ok := a.source[repository]; ok && known != source {
		source = ""
	}
	a.source[repository] = source
}

// agree adds the repositories of several sources that an adoption which has been
// interrupted, or is under way elsewhere, has found, and records those of both.
func (a *adoption) agree(ctx context.Context, records store.Records) error {
	var known []string
	data, err := records.Load(ctx, mixedKey)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && json.Unmarshal(data, &known) != nil {
		known = nil // as good as absent
	}
	for _, repository := range known {
		a.source[repository] = ""
	}
	var mixed []string
	for repository, source := range a.source {
		if source == "" {
			mixed = append(mixed, repository)
		}
	}
	if len(mixed) == len(known) {
		return nil
	}
	return save(ctx, records, mixedKey, mixed)
}

// repository returns the repository of a scope, which is the same whatever address
// or login its upstream's name stands for, and the source.
func (a *adoption) repository(scope string) (repository, source string) {
	source, repository = sourceOf(scope)
	name, _, _ := cutLast(source, "@")
	return strings.Join([]string{name, repository}, "/"), source
}

// keeps reports whether links of a scope are kept.
func (a *adoption) keeps(scope string) bool {
	repository, source := a.repository(scope)
	return a.trusted[source] && a.source[repository] == source
}

func (x *Index) adopt(ctx context.Context, blobs store.Blobs, a *adoption, done *Adopted, l Linked) error {
	scope, d, key := l.Scope, l.Digest, linkKey(l.Scope, l.Digest)
	data, err := x.records.Load(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var old linkRecord
	bad := json.Unmarshal(data, &old) != nil
	if !bad && old.Proof == proved {
		return nil
	}
	e, err := blobs.Stat(ctx, d)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	drop := bad || err != nil || !a.keeps(scope) || old.Size >= 0 && old.Size != e.Size
	if !drop && old.Size < 0 {
		// The size of a file that has been cut must not become what is known.
		drop = blobs.Check(ctx, d, nil) != nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if drop {
		done.Dropped++
		return x.DropLink(ctx, scope, d)
	}
	done.Kept++
	old.Size = e.Size
	x.links.Remove(key)
	if err := x.AddDelivery(ctx, scope, d, old.Link); err != nil {
		return err
	}
	return x.records.Mark(ctx, key, l.Used) // it has not been used by that
}

// proofOf accepts a link whose content its source has delivered, or one of the
// former version that is kept.
func (x *Index) proofOf(scope string, r linkRecord) error {
	if r.Proof == proved {
		return nil
	}
	if a := x.adoption.Load(); a != nil && r.Size >= 0 && a.keeps(scope) {
		return nil
	}
	return errors.New("it is not proved")
}
