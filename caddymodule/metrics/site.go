package metrics

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

const (
	// otherGroup stands for groups that the configuration does not declare.
	otherGroup = "_other"

	// noDirectory stands for a login with a name that no directory knows.
	noDirectory = "_none"

	// commonLogin stands for the login of an upstream, in contrast to that of a group.
	commonLogin = "common"

	// unnamedSite stands for a site without a name.
	unnamedSite = "default"
)

// Config says what a site counts.
type Config struct {
	// PerGroup adds the label group to metrics of requests: the path of a declared
	// group, or _other.
	PerGroup bool `json:"per_group,omitempty"`
}

// UnmarshalCaddyfile parses
//
//	metrics {
//		per_group
//	}
func (c *Config) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if err := parse.End(d); err != nil {
		return err
	}
	return parse.Lines(d, "metrics", map[string]func(*caddyfile.Dispenser) error{
		"per_group": func(d *caddyfile.Dispenser) error {
			c.PerGroup = true
			return parse.End(d)
		},
	})
}

// Site is a running site as the metrics see it. All fields must be set before
// [Site.Open], and not be changed after it.
type Site struct {
	Config

	// Name is the name of the site, which may be empty.
	Name string

	// Groups are the paths of the declared groups.
	Groups []string

	// Upstreams are the upstreams of the site.
	Upstreams []Upstream

	// DirectoriesUp returns, by the names of the directories, whether they answer.
	// It may wait for them, for less than a second.
	DirectoriesUp func(context.Context) map[string]bool

	// Directories are the names of the directories.
	Directories []string

	// Cache is the content in the storage with the name StorageName, which begins
	// with the name of the module.
	Cache       *blobcache.Cache
	StorageName string

	// Remote is the copy of the storage elsewhere, or nil.
	Remote storage.Remote

	// Quotas are the quotas of groups in bytes, and Totals returns what groups have,
	// or nil if that is not known yet.
	Quotas map[string]int64
	Totals func() map[string]blobcache.Total

	// Peers returns the state of the other nodes, or nil if the site has none.
	Peers func() *peers.State

	declared    map[string]bool
	directories []string // for logins
}

// Upstream is an upstream of a site.
type Upstream struct {
	Name string

	// Logins are the clients of the upstream by the path of the group whose login they
	// use. The path is empty for the login of the upstream.
	Logins map[string]*upstream.Mirrors
}

// Open shows the series of the site until [Site.Close] is called.
func (s *Site) Open() {
	s.declared = make(map[string]bool, len(s.Groups))
	for _, path := range s.Groups {
		s.declared[path] = true
	}
	s.directories = append(slices.Clone(s.Directories), access.TokensDirectory, noDirectory)
	process.mu.Lock()
	defer process.mu.Unlock()
	process.sites = append(process.sites, s)
}

// Close hides the series of the site that no other site has. It does nothing if s is
// nil.
func (s *Site) Close() {
	process.mu.Lock()
	defer process.mu.Unlock()
	process.sites = slices.DeleteFunc(process.sites, func(other *Site) bool { return other == s })
}

// label is the value of the label site.
func (s *Site) label() string { return cmp.Or(s.Name, unnamedSite) }

// Record counts a request. It is a [record.Consumer].
func (s *Site) Record(r *record.Request) {
	if r.Kind.ForPeer() {
		process.peerRequests.with("", strings.TrimPrefix(r.Kind.String(), "peer "), r.Result.String()).Add(1)
		process.peerBytes.with("").Add(uint64(r.Bytes))
		return
	}
	process.totals[r.Kind][r.Result].Add(1)
	group := ""
	if s.PerGroup {
		if group = r.Group; !s.declared[group] {
			group = otherGroup
		}
	}
	switch r.Result {
	case record.Denied:
		process.denied.with(group, strings.ReplaceAll(cmp.Or(r.Denial, "other"), " ", "_")).Add(1)
	case record.Throttled:
		process.throttled.with("").Add(1)
	}
	if r.Kind == record.Other {
		return
	}
	kind, result := r.Kind.String(), r.Result.String()
	process.requests.with(group, kind, result).Add(1)
	if r.FirstByte > 0 {
		process.firstByte.with("", kind, result).Observe(r.FirstByte.Seconds())
	}
	if r.Bytes > 0 && r.Source != record.Nowhere {
		process.responseBytes.with(group, r.Upstream, r.Source.String()).Add(uint64(r.Bytes))
	}
}

// Login counts the outcome of a login.
func (s *Site) Login(o access.Outcome) {
	result := "unavailable"
	switch {
	case errors.Is(o.Err, password.ErrBusy):
		process.throttled.with("").Add(1)
		return
	case o.Err == nil && o.Repeated:
		result = "repeated"
	case o.Err == nil:
		result = "accepted"
	case directory.IsRefusal(o.Err) && o.HiddenBy == nil:
		result = "refused"
	}
	process.logins.with("", cmp.Or(o.Caller.Directory, noDirectory), result, s.label()).Add(1)
}
