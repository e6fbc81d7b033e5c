package credential

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/flight"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

const (
	// lookTimeout limits the time of a program.
	lookTimeout = 10 * time.Second

	// lookPause is the time after the end of a look for a login in which there is
	// no other one.
	lookPause = 10 * time.Second
)

// found is a login and the times at which it ends, which are zero if they are not
// known.
type found struct {
	login   auth.Login
	expires time.Time
	renewAt time.Time // before expires, so that a failure to renew the login has time to pass
}

// renewed remembers a login and looks for another one when the login is due to be
// renewed or refused.
type renewed struct {
	look    func(context.Context) (found, error)
	flights singleflight.Group

	mu      sync.Mutex
	current found
	looked  time.Time // the end of the last look
	failure error     // of the last look
}

func newRenewed(look func(context.Context) (found, error)) *renewed {
	return &renewed{look: look}
}

// login implements [auth.Source].
func (r *renewed) login(ctx context.Context, refused *auth.Login) (auth.Login, error) {
	if login, err, ok := r.known(refused); ok {
		return login, err
	}
	return flight.Do(ctx, &r.flights, "", func(ctx context.Context) (auth.Login, error) {
		if login, err, ok := r.known(refused); ok { // a run has ended meanwhile
			return login, err
		}
		ctx, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		next, err := r.look(ctx)
		if err == nil {
			err = next.login.Check()
		}
		return r.record(next, err, refused)
	})
}

// known returns the login without looking for one, or the failure of the last look
// if the next one has to wait. It reports false if it is time to look.
func (r *renewed) known(refused *auth.Login) (login auth.Login, err error, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.usable(refused) && (r.current.renewAt.IsZero() || now.Before(r.current.renewAt)) {
		return r.current.login, nil, true
	}
	if r.looked.IsZero() || now.Sub(r.looked) >= lookPause {
		return auth.Login{}, nil, false
	}
	switch {
	case r.usable(nil) && (r.failure == nil || r.usable(refused)):
		return r.current.login, nil, true // perhaps the refused one, until a program may run again
	case r.failure != nil:
		return auth.Login{}, r.failure, true
	}
	return auth.Login{}, errors.New("the login has expired; the next one is looked for in a few seconds"), true
}

// record remembers the result of a look and returns the login to use: until it
// expires, the old one if there is no new one.
func (r *renewed) record(next found, err error, refused *auth.Login) (auth.Login, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looked, r.failure = time.Now(), err
	if err == nil {
		r.current = next
	} else if !r.usable(refused) {
		return auth.Login{}, err
	}
	return r.current.login, nil
}

// usable reports whether there is a login that has not expired and is not the
// refused one. The caller must hold the lock.
func (r *renewed) usable(refused *auth.Login) bool {
	return r.current.login != auth.Login{} &&
		(r.current.expires.IsZero() || time.Now().Before(r.current.expires)) &&
		(refused == nil || *refused != r.current.login)
}
