package page

import (
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/health"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/usage"
)

// Site is the page of a site for an account.
type Site struct {
	Registry string `json:"registry"` // the host that clients log in to
	Account  string `json:"account"`

	// Groups are those that the account may read, sorted by path.
	Groups []Entry `json:"groups"`

	// Next is the parameter after of the page with the groups after these, or empty.
	// Clients cannot read it: it may stand for a group that the account may not read.
	Next string `json:"next,omitempty"`

	// Incomplete reports that groups are missing because a directory could not say
	// whether the account may read them.
	Incomplete bool `json:"incomplete,omitempty"`

	// Managed is what admins see. It is nil for others.
	*SiteManaged

	Now time.Time `json:"-"` // the time of the request
}

// Entry is a group on the page of a site.
type Entry struct {
	Group      string               `json:"group"`
	Visibility directory.Visibility `json:"visibility,omitempty"` // empty if it is not known
	Access     string               `json:"access"`               // the rule that lets the account read it
	Page       string               `json:"page,omitempty"`       // the path of its page; empty if the group does not exist any more

	// Usage is for admins, and nil if the group has nothing stored.
	Usage *admin.GroupUsage `json:"usage,omitempty"`
}

// SiteManaged is the part of the page of a site that only admins see.
type SiteManaged struct {
	Stored    Stored             `json:"stored"`
	Health    health.Report      `json:"health"`
	Upstreams []health.Upstream  `json:"upstreams"` // in the order of the configuration
	Fills     []admin.FillStatus `json:"fills"`     // the oldest first

	// Peers are the other nodes of the site, or nil if it has none.
	Peers *peers.State `json:"peers,omitempty"`

	// Days is the traffic of all groups of the storage, the last day today.
	Days []usage.Day `json:"days"`
}

// Stored is how much of the storage is used. All sites with the storage share it.
type Stored struct {
	Bytes int64 `json:"bytes"`
	Blobs int   `json:"blobs"` // blobs and manifests
	Limit int64 `json:"limit"` // in bytes: max_size, or what the disk leaves if that is less; 0 if it is not known
}

func (*Site) template() string { return "site.html" }

// Title returns the title of the page.
func (s *Site) Title() string { return s.Registry }

// Chart returns the chart of the traffic.
func (m *SiteManaged) Chart() Chart { return newChart(m.Days) }
