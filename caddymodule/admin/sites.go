package admin

import (
	"context"
	"slices"
	"sync"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/health"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/metrics"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
)

// Site has what the admin API needs to know of a running site.
type Site struct {
	// Name is the name of the site, which may be empty.
	Name string

	// Configuration identifies the configuration of the site. It must be
	// comparable.
	Configuration any

	// Identity is equal for two sites at which an access token has the same
	// rights.
	Identity string

	// Tokens creates, lists and revokes the access tokens of the site.
	Tokens *access.Tokens

	// Explain decides about the pull of an image by the account as, without
	// asking an upstream. An empty account is an anonymous client.
	Explain func(ctx context.Context, as, image string) (Explanation, error)

	// Warm returns a function that pulls an image through the cache as its group does. The error
	// is an [access.RequestError], [fs.ErrNotExist] if the site has no such group, or
	// that of a directory that could not answer.
	Warm func(ctx context.Context, image string) (Warm, error)

	// Upstreams are the upstreams of the site with the logins that it uses there.
	Upstreams []metrics.Upstream
	// Peers returns the state of the other nodes, or nil if the site has none.
	Peers func() *peers.State
	// Health asks the directories of the site.
	Health *health.Site

	// Storage identifies the storage of the site. It must be comparable.
	Storage any
	// Status returns the state of the storage.
	Status func() CacheStatus
	// Missing returns what was missing in the storage while upstreams were offline.
	Missing func() []Missing
	// Scrub starts a check of the storage, see [Scrubber.Start].
	Scrub func(rate int64)
}

// The admin API does not belong to a configuration and finds the sites here. During
// a reload, the list has the sites of both configurations, and the API uses those of
// the newer one. If that configuration is rejected, its sites are unregistered and
// the API uses those of the old one again.
var (
	sitesMu sync.Mutex
	sites   []*Site // in the order of provisioning
)

// Register makes a site known to the admin API until Unregister is called. If another
// site of the same configuration has the same name and another identity, an access
// token could belong to either: Register then disables the tokens of both sites and
// reports that they are ambiguous.
func Register(s *Site) (ambiguous bool) {
	sitesMu.Lock()
	defer sitesMu.Unlock()
	for _, other := range sites {
		if other.Configuration == s.Configuration && other.Name == s.Name && other.Identity != s.Identity {
			other.Tokens.Accounts.DisableTokens()
			s.Tokens.Accounts.DisableTokens()
			ambiguous = true
		}
	}
	sites = append(sites, s)
	return ambiguous
}

// Unregister removes a site that Register has added. It ignores nil.
func Unregister(s *Site) {
	sitesMu.Lock()
	defer sitesMu.Unlock()
	sites = slices.DeleteFunc(sites, func(other *Site) bool { return other == s })
}

// running returns the sites of the newest configuration.
func running() (newest []*Site) {
	sitesMu.Lock()
	defer sitesMu.Unlock()
	for _, s := range sites {
		if s.Configuration == sites[len(sites)-1].Configuration {
			newest = append(newest, s)
		}
	}
	return newest
}
