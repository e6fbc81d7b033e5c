package index

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// proved is the value of linkRecord.Proof for links to content that the source
// has delivered. Former versions linked what a source only claimed to have, and
// did not write the field.
const proved = 1

// linkRecord is a link as it is stored.
type linkRecord struct {
	Link
	Proof int `json:"proof"`

	// Added is when the link was recorded. It is zero for a link that an earlier version
	// has stored.
	Added time.Time `json:"added,omitzero"`
}

// adoptedKey is the record that is saved when the links of a former version
// have been adopted.
const adoptedKey = "format/links"

// mixedKey is the record of the repositories whose former links are of several
// sources. It is saved before the first link is dropped: after that, the links
// no longer show it to an adoption that resumes or runs at the same time.
const mixedKey = "format/mixed"

// adoptStride is the number of links between two rests. Each link is written.
const adoptStride = 64

// adoption decides about former links while they are adopted.
type adoption struct {
	trusted map[string]bool   // sources
	source  map[string]string // of each repository's links, "" where there are several
}

// Adopted counts the links of a former version that were kept and dropped.
type Adopted struct{ Kept, Dropped int }

// Adopt adopts the links of a former version, which linked what a source only
// claimed to have, once for all processes that share the records. It keeps a
// link, and counts it as a delivery, if its source is trusted, all links of its
// repository are of that source, and its content is stored with the recorded
// size, or with the right digest if no size is recorded. It drops other links;
// the next download proves them again. Links count as absent until they are
// adopted, except those of trusted sources.
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

// note records that a repository of an upstream has links of a source, for any
// owner.
func (a *adoption) note(scope string) {
	repository, source := a.repository(scope)
	if known, ok := a.source[repository]; ok && known != source {
		source = ""
	}
	a.source[repository] = source
}

// agree adds the repositories of several sources that an interrupted or
// concurrent adoption has found, and saves all of them.
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

// repository returns the source of a scope, and its repository, which does not
// depend on the address or login of the upstream.
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
		// The size of a damaged file must not be recorded.
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

// proofOf returns an error unless the source has delivered the link's content,
// or the link is a former one that will be kept.
func (x *Index) proofOf(scope string, r linkRecord) error {
	if r.Proof == proved {
		return nil
	}
	if a := x.adoption.Load(); a != nil && r.Size >= 0 && a.keeps(scope) {
		return nil
	}
	return errors.New("it is not proved")
}
