package page

import (
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/usage"
)

// Group is the page of a group for an account that may pull from it.
type Group struct {
	Group      string               `json:"group"`
	Visibility directory.Visibility `json:"visibility"`

	// Registry is the host that clients log in to, and Prefix that of the names of
	// images.
	Registry string `json:"registry"`
	Prefix   string `json:"prefix"`

	// Account is the account that sees the page, or empty for a client without one,
	// and Access the rule that lets it, such as "member".
	Account string `json:"account"`
	Access  string `json:"access"`

	// Upstreams are those that the limits of the group may allow, and
	// DefaultUpstream is the one of images whose names begin with none.
	Upstreams       []string `json:"upstreams"`
	DefaultUpstream string   `json:"default_upstream"`

	// Limits are the allow and deny lines of the group and of the groups above it.
	Limits []string `json:"limits,omitempty"`

	// Managed is what maintainers see. It is nil for members.
	*Managed

	// Scheme is that of the site, Example an image for the commands, and Now the
	// time of the request.
	Scheme  string    `json:"-"`
	Example string    `json:"-"`
	Now     time.Time `json:"-"`
}

// Managed is the part of the page of a group that only maintainers see.
type Managed struct {
	// Usage is the storage that the group and its subgroups use, as last measured.
	// It is nil before the first measurement.
	Usage *admin.GroupUsage `json:"usage"`

	// Images are the tags on this page of the list, that with the last pull first.
	Images []Image `json:"images"`
	More   bool    `json:"more,omitempty"` // whether there are pages after this one
	Page   int     `json:"page"`           // from 1
	Pages  int     `json:"pages"`
	// Cut reports that the list has only the first of the group's images.
	Cut bool `json:"cut,omitempty"`

	// Days is the traffic of the group and its subgroups, the last day today.
	Days []usage.Day `json:"days"`
}

// Image is a tag that has been pulled.
type Image struct {
	Name   string    `json:"name"` // after the name of the registry
	Digest string    `json:"digest"`
	Since  time.Time `json:"since"` // since when the tag has the digest
	Pulled time.Time `json:"pulled"`
	Size   int64     `json:"size"` // of what the group has of it, in bytes
}

func (*Group) template() string { return "group.html" }

// Title returns the title of the page.
func (g *Group) Title() string { return g.Group }

// Source is an upstream and how the names of its images begin.
type Source struct{ Name, Prefix string }

// Sources returns the upstreams of the group, the default one first.
func (g *Group) Sources() (sources []Source) {
	for _, name := range g.Upstreams {
		if name == g.DefaultUpstream {
			sources = append(sources, Source{name, g.Prefix + "/"})
		} else {
			sources = append(sources, Source{name, g.Prefix + "/" + name + "/"})
		}
	}
	return sources
}

// Chart returns the chart of the traffic.
func (m *Managed) Chart() Chart { return newChart(m.Days) }
