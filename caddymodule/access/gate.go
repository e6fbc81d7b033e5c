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
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// checkLimit is the longest time that a login is checked for, whether or not a
// client waits.
const checkLimit = 30 * time.Second

// Times says when a login is answered, counted from its arrival. [Throttled]
// errors are returned at once.
type Times struct {
	// Failed is the earliest time at which a failed login is answered. It should
	// be no shorter than Checked: a later answer would show how long the check
	// took.
	Failed time.Duration

	// Checked is how long a client waits for the check. A login that has not
	// been checked by then is answered as one that cannot be checked now.
	Checked time.Duration
}

// LoginTimes are the times at which a site answers logins. Tests change them, so that they
// need not wait for failed logins, and do not fail because checks take long.
var LoginTimes = Times{Failed: time.Second, Checked: time.Second}

// Gate limits and checks logins. It asks the throttle, then the accounts, and
// tells the throttle the outcome.
//
// A failed login is answered at a fixed time after its arrival, so the time does
// not tell whether the account exists. The check runs beside the request. If it
// takes too long, it continues without the request, and the answer is that the
// login cannot be checked now, whatever the name. If the login then turns out to
// be right, that is remembered, and it succeeds when the client tries again.
type Gate struct {
	Accounts *Accounts
	Throttle *Throttle
}

// Login is a login to be checked.
type Login struct {
	// Name and Password are as the client sent them. The password may be a token.
	Name, Password string

	// Address is the IP address of the client, as Caddy determined it.
	Address string

	// Request is the request that carries the login.
	Request *http.Request

	// Groups are the paths of the groups that the request is about; at most four.
	Groups []string
}

// Outcome is the outcome of a check, which may end after the request.
type Outcome struct {
	// Caller is the account. Next to an error it has at most the name of the
	// directory that returned it.
	Caller Caller

	// Err is nil if the login is right, a refusal (see [directory.IsRefusal]) if
	// it is wrong, and otherwise says why it could not be checked.
	Err error

	// HiddenBy is nil, or says why the client is not told of a refusal: at the
	// same time, a login with an unknown name could not have been refused.
	HiddenBy error

	// Repeated reports whether the login was right when it was last checked.
	Repeated bool
}

// errUnfinished is the error of a login that is still being checked when the
// client has waited long enough.
var errUnfinished = errors.New("the login check did not finish in time")

// Login checks a login and returns its account. The error is
//
//   - a *[Throttled], at once, if there were too many failed logins;
//   - a refusal (see [directory.IsRefusal]) if the login is wrong;
//   - the cause of the request's context if the client has left;
//   - any other error if the login cannot be checked now.
//
// Unless the error is a *Throttled, Login calls settled once with the outcome
// when the check has ended, possibly after Login has returned.
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
			return outcome.Caller, nil
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
	if outcome.HiddenBy != nil {
		return outcome.Caller, outcome.HiddenBy
	}
	return outcome.Caller, outcome.Err
}

// check checks a login in the background and then releases the attempt. The
// outcome is sent to the channel, which has room for it.
func (g *Gate) check(attempt *attempt, l Login, settled func(Outcome)) <-chan Outcome {
	done := make(chan Outcome, 1)
	finish := func(who Caller, err error) {
		outcome := attempt.settle(who, err)
		settled(outcome)
		done <- outcome
	}
	_, isToken := accesstoken.Parse(l.Password)
	leave, err := attempt.takeSlot(isToken)
	if err != nil {
		finish(Caller{}, err)
		attempt.release()
		return done
	}
	request, cancel := detached(l.Request)
	login := directory.Login{Name: l.Name, Password: l.Password, Request: request, Groups: l.Groups,
		Friendly: attempt.addressKnown, Subnet: attempt.subnet, Token: !attempt.guessable}
	go func() {
		defer cancel()
		defer leave()
		defer attempt.release()
		finish(g.authenticate(request.Context(), login))
	}()
	return done
}

// detached returns a request that may outlast the original: it has a context of
// its own, and copies of what other handlers of the request may change.
func detached(r *http.Request) (*http.Request, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), checkLimit)
	if vars, ok := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any); ok {
		ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, maps.Clone(vars))
	}
	return r.Clone(ctx), cancel
}

// authenticate is [Accounts.Authenticate], with a panic of a directory as an
// error: outside of the request's goroutine it would end the process.
func (g *Gate) authenticate(ctx context.Context, login directory.Login) (who Caller, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			who, err = Caller{}, fmt.Errorf("checking a login: panic: %v", cause)
		}
	}()
	return g.Accounts.Authenticate(ctx, login)
}
