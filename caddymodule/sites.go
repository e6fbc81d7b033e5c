package caddymodule

import (
	"context"
	"slices"
	"sync"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
)

// runningSite is a running site as the admin API sees it.
type runningSite struct {
	// name is the name of the site, which may be empty.
	name string

	// load is the configuration that the site is of; it only needs to be comparable.
	load any

	// identity is equal for two sites at which an access token means the same.
	identity string

	tokens *access.Tokens

	// explain decides about the pull of an image by the account as, and asks no
	// upstream; an empty name is an anonymous client.
	explain func(ctx context.Context, as, image string) (explanation, error)

	// storage is equal for two sites with the same storage; it only needs to be
	// comparable. status and scrub are about the storage.
	storage any
	status  func() cacheStatus
	scrub   func(rate int64)
}

// The admin API is set up without a configuration; it finds the sites here.
// During a reload those of both configurations are listed, and those of the newest
// count. If the new one is rejected, its sites are unregistered, and those of the
// old one count again.
var (
	sitesMu sync.Mutex
	sites   []*runningSite // in the order of provisioning
)

// register lists a site until unregister is called. If another site of the same
// configuration has its name and another identity, an access token could be meant
// for either: then register disables the tokens of both, and reports that.
func register(s *runningSite) (ambiguous bool) {
	sitesMu.Lock()
	defer sitesMu.Unlock()
	for _, other := range sites {
		if other.load == s.load && other.name == s.name && other.identity != s.identity {
			other.tokens.Accounts.DisableTokens()
			s.tokens.Accounts.DisableTokens()
			ambiguous = true
		}
	}
	sites = append(sites, s)
	return ambiguous
}

// unregister removes a site from the list. It does nothing for nil.
func unregister(s *runningSite) {
	sitesMu.Lock()
	defer sitesMu.Unlock()
	sites = slices.DeleteFunc(sites, func(other *runningSite) bool { return other == s })
}

// running returns the sites of the newest configuration.
func running() (newest []*runningSite) {
	sitesMu.Lock()
	defer sitesMu.Unlock()
	for _, s := range sites {
		if s.load == sites[len(sites)-1].load {
			newest = append(newest, s)
		}
	}
	return newest
}
