// Package audit writes the audit log of pulls: who has pulled which manifest, with
// which result.
package audit

import (
	"net/http"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
)

// The events, which are the message and the field "event" of a line.
const (
	pull           = "pull"            // a manifest was sent to an account
	resolve        = "resolve"         // an account was told which digest a tag stands for
	peerPull       = "peer pull"       // a manifest was sent to another node, for a client there
	anonymousPulls = "anonymous pulls" // how often a manifest was sent to clients without a login
)

const (
	// period is how long anonymous pulls are counted before a line is written.
	period = time.Minute

	// maxCounts is the number of groups and digests that are counted apart in a
	// period. The others are counted together, as those of the group otherGroup.
	maxCounts  = 1000
	otherGroup = "_other"
)

// Pulls logs the manifests that a site has served, at level info. It is safe for
// concurrent use and must be closed.
//
// Docker and containerd ask for the digest of a tag by HEAD and then for the manifest
// with this digest. So a HEAD of a tag is logged too: only this request contains the
// tag. A HEAD of a digest is not logged.
//
// A manifest that is sent to another node is logged with the node's address. The node logs
// the pull of its client.
//
// Pulls of clients without a login are counted by minute, group and digest, since a line
// for each would not name the client.
type Pulls struct {
	logger *zap.Logger

	mu     sync.Mutex
	counts map[key]*count
	timer  *time.Timer // runs while there are counts
	closed bool
}

// key is what anonymous pulls are counted by.
type key struct {
	group  string
	digest digest.Digest
}

// count has the anonymous pulls of a manifest in a period.
type count struct {
	upstream, repository string // of the first pull
	pulls, bytes         int64
}

// NewPulls returns a log of pulls that writes to a logger.
func NewPulls(logger *zap.Logger) *Pulls { return &Pulls{logger: logger} }

// Record logs a request if it has served a manifest. It is a [record.Consumer].
func (p *Pulls) Record(r *record.Request) {
	if !served(r) || !p.logger.Core().Enabled(zapcore.InfoLevel) {
		return
	}
	switch {
	case r.Head && (r.Tag == "" || r.Anonymous || r.Kind.ForPeer()):
		return
	case r.Anonymous:
		p.count(r)
		return
	}
	fields := (*fields)(r)
	if line := p.logger.Check(zapcore.InfoLevel, fields.event()); line != nil {
		line.Write(zap.Inline(fields))
	}
}

// fields are the fields of a line about the pull of an account. Inlined, they need no
// memory of their own, which would be the most that a line takes.
type fields record.Request

func (f *fields) event() string {
	switch {
	case f.Kind.ForPeer():
		return peerPull
	case f.Head:
		return resolve
	}
	return pull
}

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (f *fields) MarshalLogObject(to zapcore.ObjectEncoder) error {
	to.AddString("event", f.event())
	to.AddString("account", f.Account)
	to.AddString("directory", f.Directory)
	to.AddString("access_token", f.AccessToken)
	to.AddString("client_ip", f.Address)
	to.AddString("group", f.Group)
	to.AddString("upstream", f.Upstream)
	to.AddString("repository", f.Repository)
	to.AddString("tag", f.Tag)
	to.AddString("digest", string(f.Digest))
	to.AddString("result", f.Result.String())
	to.AddInt64("bytes", f.Bytes)
	return nil
}

// served reports whether a request has served a manifest, or a part of it: a client that
// closes the connection just before the end knows the manifest, too.
func served(r *record.Request) bool {
	brokenOff := r.Status == http.StatusOK && r.Bytes > 0 && (r.Result == record.Canceled || r.Result == record.Error)
	return (r.Kind == record.Manifest || r.Kind == record.PeerManifest) && (record.Hit <= r.Result && r.Result <= record.Stale || brokenOff)
}

// count counts an anonymous pull.
func (p *Pulls) count(r *record.Request) {
	p.mu.Lock()
	k := key{r.Group, r.Digest}
	c := p.counts[k]
	if c == nil && len(p.counts) >= maxCounts {
		k = key{group: otherGroup}
		c = p.counts[k]
	}
	if c == nil {
		if p.counts == nil {
			p.counts = make(map[key]*count)
		}
		c = new(count)
		if k.digest != "" {
			c.upstream, c.repository = r.Upstream, r.Repository
		}
		p.counts[k] = c
	}
	c.pulls++
	c.bytes += r.Bytes
	closed := p.closed
	if !closed && p.timer == nil {
		p.timer = time.AfterFunc(period, p.flush)
	}
	p.mu.Unlock()
	if closed { // the configuration has ended before the request
		p.flush()
	}
}

// flush writes the counts and begins anew. Requests do not wait for it.
func (p *Pulls) flush() {
	p.mu.Lock()
	counts := p.counts
	p.counts = nil
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.mu.Unlock()
	for k, c := range counts {
		if line := p.logger.Check(zapcore.InfoLevel, anonymousPulls); line != nil {
			line.Write(zap.String("event", anonymousPulls), zap.String("group", k.group),
				zap.String("upstream", c.upstream), zap.String("repository", c.repository),
				zap.String("digest", string(k.digest)), zap.Int64("pulls", c.pulls), zap.Int64("bytes", c.bytes))
		}
	}
}

// Close writes what is counted. Pulls of requests that have not ended are logged one by
// one when they end.
func (p *Pulls) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.flush()
}
