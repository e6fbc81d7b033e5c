package pullthrough

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

const (
	maxAbsences = 4096

	// maxAbsencesOfOne is how many of them one group may have.
	maxAbsencesOfOne = maxAbsences / 10
)

// Absences remembers which tags and lists upstreams did not have when they were asked
// last: at most 4096, and at most a tenth of them for one [Config.Group]. An absence
// counts for one scope: one group, one login and one repository. It says nothing about
// other tags, because some registries answer NAME_UNKNOWN for a missing tag too. Denied
// access is never remembered, since it may end at any time and clients log in to end it.
// Within the same bounds, it remembers errors that say when to ask again, for as long as
// upstream demands, up to ten minutes.
//
// A nil Absences remembers nothing.
type Absences struct {
	known *memo.Cache[error]
	owner string // in the keys of what Own has returned
}

var lastOwner atomic.Uint64

// NewAbsences returns an empty Absences.
func NewAbsences() *Absences {
	known := memo.New(memo.Config[error]{
		Size:  maxAbsences,
		Owner: func(key string) string { group, _, _ := strings.Cut(key, " "); return group }, MaxOwned: maxAbsencesOfOne,
	})
	return &Absences{known: known}
}

// Own returns Absences within the same bounds without what others have
// recorded for another registry or with an earlier configuration.
func (a *Absences) Own() *Absences {
	return &Absences{known: a.known, owner: strconv.FormatUint(lastOwner.Add(1), 36)}
}

// ForgetGroup forgets the answers for a group and its subgroups, also those that other
// configurations have recorded.
func (a *Absences) ForgetGroup(group string) { a.forget(group + "/") }

// ForgetScope forgets the answers for one repository, also those that other
// configurations have recorded.
func (a *Absences) ForgetScope(scope string) { a.forget(scope + " ") }

func (a *Absences) forget(prefix string) {
	a.known.ForgetFunc(func(key string) bool {
		parts := strings.SplitN(key, " ", 3)
		return strings.HasPrefix(parts[2], prefix)
	})
}

// absenceKey begins with the group that the absence counts for, and the scope is the
// third part.
func (r *Repository) absenceKey(question string) string {
	return r.config.Group + " " + r.config.Absences.owner + " " + r.config.Scope + " " + question
}

// absence returns the error with which upstream has answered a question while it may be
// repeated. It returns nil if upstream must be asked, as it must for a forced request.
func (r *Repository) absence(question string) error {
	if r.config.Absences == nil || r.config.Forced {
		return nil
	}
	known, ok := r.config.Absences.known.Peek(r.absenceKey(question))
	if !ok {
		return nil
	}
	hold := r.absentFor(known.Value)
	rest := hold - time.Since(known.At)
	if rest <= 0 {
		return nil
	}
	var failure *upstream.Error
	if !errors.As(known.Value, &failure) || failure.RetryAfter == 0 {
		return fmt.Errorf("not asked again within %v: %w", hold, known.Value)
	}
	again := *failure
	again.Held, again.RetryAfter = true, rest
	return fmt.Errorf("not asked again before the time that it has named: %w", &again)
}

// absentFor returns how long an error of upstream counts: that a tag or a repository does
// not exist, or when to ask again.
func (r *Repository) absentFor(err error) time.Duration {
	switch upstream.KindOf(err) {
	case upstream.ManifestUnknown, upstream.NameUnknown:
		return r.config.AbsentFor
	}
	return retryAfter(err)
}

// noteAbsence remembers upstream's answer to a question if it counts for some time, and
// forgets an earlier one if there is content.
func (r *Repository) noteAbsence(ctx context.Context, question string, err error) {
	switch {
	case r.config.Absences == nil:
	case err == nil:
		r.config.Absences.known.Forget(r.absenceKey(question))
	case r.absentFor(err) > 0 && !r.isPurged(ctx):
		r.config.Absences.known.Set(r.absenceKey(question), err)
	}
}
