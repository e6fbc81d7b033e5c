package events

import (
	"context"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// queueSize is how many events of a site can wait for slow event handlers.
const queueSize = 256

// dropInterval is the time between two log lines about dropped events.
const dropInterval = time.Minute

// Config describes the site of an emitter.
type Config struct {
	// Site is the name of the site.
	Site string

	// HasQuota reports whether the site has a quota for a group.
	HasQuota func(group string) bool
}

// Emitter emits events for one site of one configuration.
type Emitter struct {
	config  Config
	ctx     caddy.Context // of the handler
	logger  *zap.Logger
	app     *caddyevents.App
	queue   chan event
	closed  chan struct{}
	started bool           // guarded by mu
	drops   rate.Sometimes // limits the log lines about drops
}

// New returns an emitter for a handler that is being provisioned with ctx. The caller
// must call [Emitter.Close].
func New(ctx caddy.Context, config Config) (*Emitter, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	e := &Emitter{
		config: config, ctx: ctx, logger: ctx.Logger(), app: app.(*caddyevents.App),
		queue: make(chan event, queueSize), closed: make(chan struct{}),
		drops: rate.Sometimes{Interval: dropInterval},
	}
	return e, e.app.On("started", onStarted{e})
}

// onStarted starts an emitter when Caddy has started its configuration. Before that,
// the events app does not know all of its handlers.
type onStarted struct{ emitter *Emitter }

// Handle implements [caddyevents.Handler].
func (s onStarted) Handle(context.Context, caddy.Event) error {
	mu.Lock()
	defer mu.Unlock()
	if !s.emitter.started {
		s.emitter.started = true
		go s.emitter.run()
	}
	return nil
}

// Close ends all subscriptions and the goroutine. It does not wait for an event handler
// that is running. Events that still wait are dropped. It can be called for nil.
func (e *Emitter) Close() {
	if e == nil {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	subscriptions = slices.DeleteFunc(subscriptions, func(s subscription) bool { return s.emitter == e })
	close(e.closed)
	if !e.started {
		e.discard()
	}
}

// concerns reports whether an event of a source that the site uses is about the site.
func (e *Emitter) concerns(name string, data map[string]any) bool {
	if site, ok := data["site"]; ok {
		return site == e.config.Site
	}
	group, _ := data["group"].(string)
	return name != QuotaTrimmed || e.config.HasQuota(group)
}

// enqueue adds an event to the queue, or drops it if the queue is full.
func (e *Emitter) enqueue(event event) {
	select {
	case e.queue <- event:
	default:
		total := dropped.Add(1)
		e.drops.Do(func() {
			e.logger.Warn("event handlers are too slow; dropping events",
				zap.String("event", event.name), zap.Int64("dropped", total))
		})
	}
}

// run emits the events until the configuration ends or the emitter is closed.
func (e *Emitter) run() {
	defer e.discard()
	for {
		select {
		case <-e.ctx.Done():
			<-e.closed // Close follows; after it, no event is added
			return
		case <-e.closed:
			return
		case event := <-e.queue:
			if e.ctx.Err() != nil {
				dropped.Add(1)
				continue
			}
			e.emit(event)
		}
	}
}

// emit calls the handlers of an event. A handler that panics must not end the process.
func (e *Emitter) emit(event event) {
	defer func() {
		if cause := recover(); cause != nil {
			e.logger.Error("an event handler has panicked", zap.String("event", event.name), zap.Any("panic", cause), zap.Stack("stack"))
		}
	}()
	if e.app.ShouldEmit(event.name) {
		e.app.Emit(e.ctx, event.name, event.data)
	}
}

// discard counts the events in the queue as dropped.
func (e *Emitter) discard() {
	for {
		select {
		case <-e.queue:
			dropped.Add(1)
		default:
			return
		}
	}
}

// Interface guard
var _ caddyevents.Handler = onStarted{}
