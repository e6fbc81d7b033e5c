package access

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

const (
	// checkLimit bounds the check of a login, whether or not a client waits for it.
	checkLimit = 30 * time.Second

	// maxChecks is how many logins of unknown clients are checked at once, how many
	// with access tokens of the site, which wait for no directory, and how many from
	// addresses that an account has logged in from.
	maxChecks = 1024

	// maxEqual is how many more logins are checked that are equal to one.
	maxEqual = 4 * maxChecks
)

// Times are when a login is answered, counted from its arrival.
type Times struct {
	Failed  time.Duration // the answer to a failed login comes no earlier
	Checked time.Duration // no client waits longer for the check
}

// Gate checks logins: it asks the throttle, then the access tokens or the
// directories, and charges the outcome.
//
// A failed login is answered at a fixed time after its arrival, so that the time
// of the answer tells nothing about the name. The check runs beside the request.
// If it takes longer, it goes on without the request, and the answer is that the
// login cannot be checked now, whatever name it has. A login that turns out to be
// right is remembered, so that it succeeds at once when the client tries again.
type Gate struct {
	Accounts *Accounts
	Throttle *Throttle
}

// Login is a login to be checked.
type Login struct {
	Name, Password string
	Address        string // the client's, as Caddy determined it
	Request        *http.Request
	Groups         []string // that the request is about
}

// Outcome is the outcome of a check, which may end after the request.
type Outcome struct {
	Who      Caller // of a failed login no more than the directory that decided
	Err      error
	Trouble  error // why the client is not told that the login is wrong, or nil
	Repeated bool  // the login was right when it was last checked
}

// errUnfinished is the answer while the check goes on.
var errUnfinished = errors.New("the check of the login has not finished in time")

// Login checks a login, and calls settled once when the check has ended, unless
// the error is a *throttled: then nothing was checked. The error is a refusal (see
// [directory.IsRefusal]), or says why the login cannot be checked now.
func (g *Gate) Login(l Login, settled func(Outcome)) (Caller, error) {
	late := time.NewTimer(g.Throttle.times.Checked)
	defer late.Stop()
	failing := time.NewTimer(g.Throttle.times.Failed)
	defer failing.Stop()
	attempt, limited := g.Throttle.admit(l.Address, l.Name, l.Password, !g.Accounts.isToken(l.Name, l.Password))
	if limited != nil {
		return Caller{}, limited
	}
	gone := l.Request.Context().Done()
	var outcome Outcome
	select {
	case outcome = <-g.check(attempt, l, settled):
		if outcome.Err == nil {
			return outcome.Who, nil
		}
	case <-late.C:
		outcome.Err = errUnfinished
	case <-gone:
		return Caller{}, context.Cause(l.Request.Context())
	}
	select {
	case <-failing.C:
	case <-gone:
	}
	if outcome.Trouble != nil {
		return outcome.Who, outcome.Trouble
	}
	return outcome.Who, outcome.Err
}

// check checks a login in the background, and releases the attempt at the end.
func (g *Gate) check(attempt *attempt, l Login, settled func(Outcome)) <-chan Outcome {
	done := make(chan Outcome, 1)
	finish := func(who Caller, err error) {
		outcome := attempt.settle(who, err)
		settled(outcome)
		done <- outcome
	}
	_, isToken := accesstoken.Parse(l.Password)
	leave, err := attempt.beginCheck(isToken)
	if err != nil {
		finish(Caller{}, err)
		attempt.release()
		return done
	}
	request, cancel := detached(l.Request)
	login := directory.Login{Name: l.Name, Password: l.Password, Request: request, Groups: l.Groups,
		Friendly: attempt.friendly, Subnet: attempt.subnet, Token: !attempt.guessable}
	go func() {
		defer cancel()
		defer leave()
		defer attempt.release()
		finish(g.ask(request.Context(), login))
	}()
	return done
}

// detached returns a request that may outlast the original: with a context of its
// own, and with copies of what the request's other handlers may change.
func detached(r *http.Request) (*http.Request, context.CancelFunc) {
	ctx, cancel := memo.Background(r.Context(), checkLimit)
	if vars, ok := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any); ok {
		ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, maps.Clone(vars))
	}
	return r.Clone(ctx), cancel
}

// ask asks the directories. A panic of a guest fails the login, as it would fail
// the request if the request waited for it.
func (g *Gate) ask(ctx context.Context, login directory.Login) (who Caller, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			who, err = Caller{}, fmt.Errorf("checking a login: panic: %v", cause)
		}
	}()
	return g.Accounts.Authenticate(ctx, login)
}

// beginCheck takes a place for a check until leave is called, or returns
// [password.ErrBusy]. Equal logins of one address at a time, as of a CI's jobs,
// have places of their own, since they share what checking costs.
func (a *attempt) beginCheck(ours bool) (leave func(), err error) {
	places := []chan struct{}{a.strangers}
	switch {
	case a.friendly:
		places[0] = a.friends
	case ours:
		places[0] = a.bearers
	}
	if a.hasEqual() {
		places = []chan struct{}{a.equals, places[0]}
	}
	for _, place := range places {
		select {
		case place <- struct{}{}:
			return func() { <-place }, nil
		default:
		}
	}
	return nil, password.ErrBusy
}

// hasEqual reports whether the same login of the same address is being checked.
func (a *attempt) hasEqual() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.flights[0] != nil && a.flights[0].flying[a.login] > 1
}

// settle charges the outcome of a check.
func (a *attempt) settle(who Caller, err error) Outcome {
	o := Outcome{Who: who, Err: err, Repeated: a.repeated}
	if hidden := (*hiddenRefusal)(nil); errors.As(err, &hidden) {
		o.Trouble = hidden.trouble
	}
	switch {
	case err == nil:
		a.accepted()
	// An address that has logged in to the account knows that it exists, so its
	// guesses count in full.
	case directory.IsRefusal(err) && (o.Trouble == nil || a.known):
		a.refused()
	default:
		a.undecided()
	}
	return o
}
