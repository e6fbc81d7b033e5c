package admin

import (
	"context"
	"slices"
	"sync"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
)

// Site is a running site as the admin API sees it.
type Site struct {
	// Name is the name of the site, which may be empty.
	Name string

	// Configuration is the configuration that the site is of; it only needs to be comparable.
	Configuration any

	// Identity is equal for two sites at which an access token means the same.
	Identity string

	Tokens *access.Tokens

	// Explain decides about the pull of an image by the account as, and asks no
	// upstream; an empty name is an anonymous client.
	Explain func(ctx context.Context, as, image string) (Explanation, error)

	// Storage is equal for two sites with the same storage; it only needs to be
	// comparable. Status and Scrub are about the storage.
	Storage any
	Status  func() CacheStatus
	Scrub   func(rate int64)
}

// The admin API is set up without a configuration; it finds the sites here.
// During a reload those of both configurations are listed, and those of the newest
// count. If the new one is rejected, its sites are unregistered, and those of the
// old one count again.
var (
	sitesMu sync.Mutex
	sites   []*Site // in the order of provisioning
)

// Register lists a site until Unregister is called. If another site of the same
// configuration has its name and another identity, an access token could be meant
// for either: then Register disables the tokens of both, and reports that.
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

// Unregister removes a site from the list. It does nothing for nil.
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
