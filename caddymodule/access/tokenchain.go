package access

import (
	"fmt"
	"slices"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// ended returns why a token that is neither revoked nor expired is no longer
// valid, or "" if it is. No directory is asked, so a token whose owner no longer
// exists counts as valid. byID has all tokens that may be its parents.
func (a *Accounts) ended(token accesstoken.Token, byID map[string]accesstoken.Token) string {
	if token.Owner != nil {
		if _, err := a.ownerDirectory(*token.Owner); err != nil {
			return reasonOf(err)
		}
	}
	for id, n := token.MadeWith, 0; id != ""; n++ {
		parent, ok := byID[id]
		why := ""
		switch err := parent.Valid(time.Now()); {
		case !ok:
			why = "that token no longer exists"
		case n == maxParents:
			why = tooManyParents
		case err != nil:
			why = err.Error()
		case parent.Owner != nil:
			if _, err := a.ownerDirectory(*parent.Owner); err != nil {
				why = reasonOf(err)
			}
		}
		if why != "" {
			return fmt.Sprintf("it was made with %s: %s", id, why)
		}
		id = parent.MadeWith
	}
	return ""
}

// madeWith returns the tokens that were made with a token, directly or through
// others, and that are neither revoked nor expired themselves.
func madeWith(id string, all []accesstoken.Token) (made []accesstoken.Token) {
	parents := []string{id}
	for range maxParents {
		var next []string
		for _, t := range all {
			if !slices.Contains(parents, t.MadeWith) {
				continue
			}
			next = append(next, t.ID)
			if t.Valid(time.Now()) == nil {
				made = append(made, t)
			}
		}
		parents = next
	}
	return made
}

func tokensByID(all []accesstoken.Token) map[string]accesstoken.Token {
	byID := make(map[string]accesstoken.Token, len(all))
	for _, t := range all {
		byID[t.ID] = t
	}
	return byID
}
