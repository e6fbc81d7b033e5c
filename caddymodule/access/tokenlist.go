package access

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// ListedToken is an access token in a list.
type ListedToken struct {
	accesstoken.Token

	// Ended says why the token is no longer valid although it is neither revoked
	// nor expired, or is empty. No directory is asked whether it still knows the
	// owner.
	Ended string `json:"ended,omitempty"`
}

// List returns the access tokens for which visible returns true, the newest
// first. It includes tokens of other sites, even of sites that no longer exist:
// for the owner of a group of this site, visible must check the site and the kind
// of a token, too. Ended is set for the tokens of this site and of the others.
// The error is an [accesstoken.ErrUnavailable] if not all tokens can be read.
func (m *Tokens) List(ctx context.Context, visible func(accesstoken.Token) bool, others ...*Tokens) ([]ListedToken, error) {
	all, err := m.Accounts.tokens.store.List(ctx)
	byID := tokensByID(all)
	sites := make(map[string]*Accounts)
	for _, site := range append(others, m) {
		sites[site.Accounts.tokens.site] = site.Accounts
	}
	tokens := []ListedToken{}
	for _, t := range all {
		if !visible(t) {
			continue
		}
		listed := ListedToken{Token: t}
		if site := sites[t.Site]; site != nil && t.Valid(time.Now()) == nil {
			listed.Ended = site.ended(t, byID)
		}
		tokens = append(tokens, listed)
	}
	return tokens, err
}

// loggedEnded has the IDs of the tokens that LogEnded has logged, so that a
// reload does not log them again.
var loggedEnded sync.Map

// LogEnded logs the tokens of the site that are no longer valid although they are
// neither revoked nor expired: the directory of the owner, or of the owner of a
// token that they were made with, is gone or has another source. Each token is
// logged once in the life of the process. LogEnded returns early if ctx is done.
func (m *Tokens) LogEnded(ctx context.Context) {
	all, err := m.Accounts.tokens.store.List(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		m.Logger.Warn("cannot list the access tokens to find those that have ended", zap.Error(err))
		return
	}
	byID := tokensByID(all)
	for _, t := range all {
		if t.Site != m.Accounts.tokens.site || t.Valid(time.Now()) != nil {
			continue
		}
		if why := m.Accounts.ended(t, byID); why != "" {
			if _, logged := loggedEnded.LoadOrStore(t.ID, true); !logged {
				m.Logger.Warn("access token has ended", append(tokenFields(t), zap.String("reason", why))...)
			}
		}
	}
}
