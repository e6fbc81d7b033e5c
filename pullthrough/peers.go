package pullthrough

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/mediatype"
)

// peerPatience is how long a peer may take to answer a question, for which it may have to
// ask upstream itself.
const peerPatience = 10 * time.Second

// Peer is another process of a cluster, as one repository asks it. It answers as it answers
// its own clients, but does not ask other peers in turn: it vouches for what it sends to
// have been confirmed by upstream for the repository. As a [fill.Replica], it sends the
// content of blobs.
type Peer interface {
	fill.Replica

	// Ask asks about a manifest or the size of a blob. The error is [fs.ErrNotExist] if
	// the peer does not provide it although the peer has not failed.
	Ask(ctx context.Context, q Question) (Answer, error)
}

// Circular reports whether the process self must not let a request of the process asker
// wait for what self has asked the process peer for. Answered is set if peer has begun to
// answer. The names of processes are unique.
//
// No process may wait for itself, so asker and peer must differ. Processes whose lists
// differ may also ask each other in a ring, in which each waits for the next one. A ring
// has a greatest name, which is greater than both of its neighbors, so a process with such
// a name does not let requests wait. Without a ring, this rarely costs a request to
// upstream that was not needed.
func Circular(asker, self, peer string, answered bool) bool {
	return peer == asker || !answered && asker < self && peer < self
}

// Question is a question to a peer about a manifest or, if Blob is set, about the size of a
// blob. For a blob, Reference is a digest and Head is set.
type Question struct {
	Blob bool

	// Reference is a digest, or a tag, which Accept and Forced belong to.
	Reference string
	Accept    mediatype.Accept
	Forced    bool

	// Head asks for the descriptor alone. Known is the digest of content that need not
	// be sent again, or empty.
	Head  bool
	Known digest.Digest
}

// Answer is the answer to a [Question].
type Answer struct {
	// Manifest has no Content if only the descriptor was asked for, or if Digest is
	// [Question.Known]; MediaType and Size need not be set in the latter case. For a blob,
	// only Digest and Size are set; Size is -1 if it is not known.
	upstream.Manifest

	// Age is at least the time since upstream confirmed what a tag stands for, and at
	// least [MinAge].
	Age time.Duration

	// First is set if the peer has asked upstream about a tag of which it knew nothing, so
	// that it has not reported that the tag has moved.
	First bool
}

// MinAge is the least age of an [Answer], because peers tell it in whole seconds. Peers are
// not asked about tags that are fresh for no longer than that.
const MinAge = time.Second

// peersFor returns the peers to ask about something.
func (r *Repository) peersFor(key string) []Peer {
	if r.config.Peers == nil {
		return nil
	}
	return r.config.Peers(key)
}

// contentKey returns the key of content for Config.Peers. All repositories of the endpoint
// ask the same peer first, which downloads the content once.
func (r *Repository) contentKey(d digest.Digest) string { return r.config.Endpoint + " " + d.String() }

// blobPeers returns the peers to ask for a blob.
func (r *Repository) blobPeers(d digest.Digest) (replicas []fill.Replica) {
	for _, p := range r.peersFor(r.contentKey(d)) {
		replicas = append(replicas, p)
	}
	return replicas
}

// errUnusable is the error of an answer that is of no use although the peer has not failed.
var errUnusable = fmt.Errorf("the answer of the peer is of no use: %w", fs.ErrNotExist)

// askPeers returns the first answer of a peer that check accepts. The error is
// [fs.ErrNotExist] if there is none.
func (r *Repository) askPeers(ctx context.Context, key string, q Question, check func(*Answer) error) (Answer, error) {
	peers := r.peersFor(key)
	if len(peers) == 0 {
		return Answer{}, fs.ErrNotExist
	}
	done, err := r.config.Questions.takeSoon(ctx, queueKey{"peers", r.config.Group})
	if err != nil {
		return Answer{}, err
	}
	defer done()
	for _, p := range peers {
		answer, err := askPeer(ctx, p, q)
		if err == nil {
			err = check(&answer)
		}
		switch {
		case err == nil:
			return answer, nil
		case ctx.Err() != nil:
			return Answer{}, context.Cause(ctx)
		case !errors.Is(err, fs.ErrNotExist):
			p.Failed(answer.Digest, err)
		}
	}
	return Answer{}, fs.ErrNotExist
}

func askPeer(ctx context.Context, p Peer, q Question) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, peerPatience)
	defer cancel()
	return p.Ask(ctx, q)
}

// checkContent returns an error unless the content of an answer is a manifest with its
// digest, and sets its media type and size.
func checkContent(a *Answer) error {
	if len(a.Content) > upstream.MaxManifest || a.Digest.Validate() != nil || a.Digest.Algorithm().FromBytes(a.Content) != a.Digest {
		return fmt.Errorf("%s: %w", a.Digest, fill.ErrDigestMismatch)
	}
	mediaType, err := mediatype.OfManifest(a.MediaType, a.Content)
	a.MediaType, a.Size = mediaType, int64(len(a.Content))
	return err
}

// manifestOfPeer returns a manifest from the first peer that sends it. The error is
// [fs.ErrNotExist] if none does.
func (r *Repository) manifestOfPeer(ctx context.Context, d digest.Digest) (upstream.Manifest, error) {
	answer, err := r.askPeers(ctx, r.contentKey(d), Question{Reference: d.String()}, func(a *Answer) error {
		a.Digest = d
		return checkContent(a)
	})
	return answer.Manifest, err
}

// headOfPeer returns the descriptor of a manifest from the first peer that provides it. The
// error is [fs.ErrNotExist] if none does.
func (r *Repository) headOfPeer(ctx context.Context, d digest.Digest) (upstream.Descriptor, error) {
	answer, err := r.askPeers(ctx, r.contentKey(d), Question{Reference: d.String(), Head: true}, func(a *Answer) error {
		if a.Digest != d {
			return fmt.Errorf("%s: the answer is about %s", d, a.Digest)
		}
		return r.checkHead(ctx, a)
	})
	return answer.Descriptor, err
}

// sizeOfPeer returns the size of a blob in bytes from the first peer that provides it. It is
// the known size unless that is -1. The error is [fs.ErrNotExist] if no peer does.
func (r *Repository) sizeOfPeer(ctx context.Context, d digest.Digest, known int64) (int64, error) {
	answer, err := r.askPeers(ctx, r.contentKey(d), Question{Blob: true, Reference: d.String(), Head: true}, func(a *Answer) error {
		switch {
		case a.Digest != d:
			return fmt.Errorf("%s: the answer is about %s", d, a.Digest)
		case a.Size < 0 || known >= 0 && a.Size != known:
			return errUnusable
		}
		return nil
	})
	return answer.Size, err
}

// first returns the name of the first step of a question to upstream. If there are peers,
// the step is to ask them, which has a name of its own.
func (r *Repository) first(question string) string {
	if r.config.Peers == nil {
		return question
	}
	return "peers: " + question
}

// oncePeers runs peers once for all callers, and ask once if that fails. The two have
// different names, so that a request of a peer, which only asks upstream, does not wait for
// an answer of peers. Otherwise, two processes that ask each other would wait for each other.
func oncePeers[T any](ctx context.Context, r *Repository, question string, peers, ask func(context.Context) (T, error)) (T, error) {
	if r.config.Peers == nil {
		return once(ctx, r, question, ask)
	}
	return once(ctx, r, r.first(question), func(ctx context.Context) (T, error) {
		if answer, err := peers(ctx); err == nil {
			return answer, nil
		}
		return once(ctx, r, question, ask)
	})
}

// refreshOfPeer asks the peers what a tag stands for, and records the first answer that is
// fresh and that upstream has confirmed later than old. Old is nil if nothing is known that
// may be believed. The error is [fs.ErrNotExist] if there is no such answer.
func (r *Repository) refreshOfPeer(ctx context.Context, tag choice, old *index.Ref, withContent bool) (refreshed, error) {
	if r.config.Registry.IsOffline() || !r.isFresh(time.Now().Add(-MinAge)) {
		return refreshed{}, fs.ErrNotExist // peers can help with content only
	}
	if ref, known := r.answeredSince(ctx, tag); known {
		return refreshed{ref: ref}, nil
	}
	q := Question{Reference: tag.tag, Accept: tag.accept, Forced: r.config.Forced, Head: old == nil && !withContent}
	if old != nil {
		if content, err := r.stored(ctx, old.Digest); err == nil {
			content.Close()
			q.Known = old.Digest
		}
	}
	asked := time.Now()
	answer, err := r.askPeers(ctx, r.config.Scope+" "+tag.name(), q, func(a *Answer) error {
		checked := asked.Add(-a.Age)
		switch {
		case !r.isFresh(checked), old != nil && !checked.After(old.Checked), q.Forced && a.Age > 2*forcedInterval:
			return errUnusable
		case a.Content != nil:
			return checkContent(a)
		case q.Known != "" && a.Digest == q.Known:
			a.MediaType, a.Size = old.MediaType, old.Size
			return nil
		case q.Head:
			return r.checkHead(ctx, a)
		}
		return fmt.Errorf("%s: the answer has no content", a.Digest)
	})
	if err == nil && answer.Content != nil {
		err = r.put(ctx, answer.Manifest)
	}
	if err != nil {
		return refreshed{}, err
	}
	ref := newRef(answer.Descriptor, asked.Add(-answer.Age))
	ref.Learned = true // the peer has written it where this process would
	if ref, err = r.settle(ctx, tag, old, ref, withContent); err != nil {
		return refreshed{}, err
	}
	r.noteAbsence(ctx, "tag "+tag.name(), nil)
	if answer.First {
		r.reportMoved(tag, old, ref)
	}
	ref.Learned = false // the peer was asked for this request
	return refreshed{ref, answer.Content != nil}, nil
}

// checkHead returns an error if an answer has no descriptor, or one that contradicts what
// upstream has delivered. It links the repository to the content, as an answer of upstream
// to a HEAD does.
func (r *Repository) checkHead(ctx context.Context, a *Answer) (err error) {
	if a.Digest.Validate() != nil || a.MediaType == "" || a.Size <= 0 {
		return fmt.Errorf("%q: the answer has no descriptor", a.Digest)
	}
	desc, ok := r.linkConfirmed(ctx, a.Descriptor)
	if !ok {
		return errUnusable
	}
	a.Descriptor = desc
	return nil
}
