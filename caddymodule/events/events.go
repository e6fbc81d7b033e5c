package events

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// The names of the events.
const (
	// UpstreamDown means that an address of an upstream is down: it has failed
	// several times in a row, see [upstream.State].
	UpstreamDown = "upstream_down"

	// UpstreamUp means that an address that was down has answered.
	UpstreamUp = "upstream_up"

	// BudgetLow means that less than 20 % of the pulls remain that an upstream
	// permits.
	BudgetLow = "budget_low"

	// TagMoved means that upstream has another digest for a tag than the one that
	// was served until now. If clients of one tag accept different types of
	// manifests, each type is a tag of its own. In a cluster, the
	// node that has asked upstream emits it, and those that learn it from that node
	// do not.
	TagMoved = "tag_moved"

	// QuotaTrimmed means that a group was over its quota and has lost content.
	QuotaTrimmed = "quota_trimmed"

	// ContentDamaged means that stored content was damaged and has been dropped.
	ContentDamaged = "content_damaged"

	// StorageFailing means that an operation of the storage has failed. It is
	// reported at most once a minute for each storage.
	StorageFailing = "storage_failing"

	// TokenMade means that an access token was created.
	TokenMade = "token_made"

	// TokenRevoked means that an access token was revoked, or has ended with the
	// one that it was made with, which was revoked.
	TokenRevoked = "token_revoked"
)

// Source identifies a value that outlives a configuration.
type Source string

// StorageSource returns the source of a storage with an identity.
func StorageSource(identity string) Source { return Source("storage " + identity) }

// TokenSource returns the source of the access tokens in a storage of Caddy.
func TokenSource(storage string) Source { return Source("tokens " + storage) }

// UpstreamSource returns the source of an address of an upstream with a login, which a
// key identifies.
func UpstreamSource(key string) Source { return Source("upstream " + key) }

// event is an event that waits to be emitted.
type event struct {
	name string
	data map[string]any
}

// subscription connects an emitter to a source.
type subscription struct {
	source  Source
	emitter *Emitter
	add     map[string]any // data that the emitter adds
}

var (
	mu            sync.Mutex
	subscriptions []subscription // in the order of provisioning

	dropped atomic.Int64
)

// Dropped returns how many events were dropped since the start of the process: because
// too many waited for slow handlers, or because their configuration ended before its
// handlers could take them.
func Dropped() int64 { return dropped.Load() }

// Publish reports an event of a source to the emitters of the running configuration.
// It does not wait for them. Data is not changed. If it has the key site, only the
// emitters of that site emit the event. An event without a subscriber is
// ignored.
func Publish(source Source, name string, data map[string]any) {
	mu.Lock()
	defer mu.Unlock()
	configuration := runningWith(source)
	for _, s := range subscriptions {
		if s.source == source && s.emitter.ctx.Done() == configuration && s.emitter.concerns(name, data) {
			own := maps.Clone(data)
			maps.Copy(own, s.add)
			own["site"] = s.emitter.config.Site
			s.emitter.enqueue(event{name, own})
		}
	}
}

// runningWith returns the configuration that emits the events of a source: the newest
// one that was started. Before the first one is, it is the newest one. It is nil if no
// emitter is subscribed.
func runningWith(source Source) (configuration <-chan struct{}) {
	started := false
	for _, s := range subscriptions {
		if s.source == source && s.emitter.ctx.Err() == nil && (s.emitter.started || !started) {
			configuration, started = s.emitter.ctx.Done(), s.emitter.started
		}
	}
	return configuration
}

// Subscribe makes the emitter emit the events of a source, with more data, until
// [Emitter.Close]. A second subscription to the same source is ignored.
func (e *Emitter) Subscribe(source Source, add map[string]any) {
	mu.Lock()
	defer mu.Unlock()
	same := func(s subscription) bool { return s.source == source && s.emitter == e }
	if !slices.ContainsFunc(subscriptions, same) {
		subscriptions = append(subscriptions, subscription{source, e, add})
	}
}
