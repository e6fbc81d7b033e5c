package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// A failed login is answered at a fixed time after its arrival, so that the time
// of the answer tells nothing about the name. The check runs beside the request:
// if it takes longer than that, it goes on without the request, and the answer is
// that the login cannot be checked now, whatever name it has. The result of the check
// is charged and logged, and a login that turns out to be right is remembered, so
// that it succeeds at once when the client tries again.

// loginTimes are when a login is answered, counted from its arrival.
type loginTimes struct {
	failed  time.Duration // the answer to a failed login comes no earlier
	checked time.Duration // nobody waits longer for the check
}

// answerLogins is used by each new throttle. Both times are the same, except in
// tests, which do not want to wait for the one and must not fail by the other.
var answerLogins = loginTimes{failed: time.Second, checked: time.Second}

const (
	// checkLimit bounds a check, whether or not somebody waits for it.
	checkLimit = 30 * time.Second

	// maxChecks is how many logins of strangers are checked at once, how many with
	// access tokens of our own, which wait for no directory, and how many of
	// clients at addresses that somebody has logged in from.
	maxChecks = 1024

	// maxEqual is how many more logins are checked that are equal to one.
	maxEqual = 4 * maxChecks
)

// errUnfinished says that a check goes on for which nobody waits any longer.
var errUnfinished = errors.New("the check of the login has not finished in time")

// checked is the outcome of a check.
type checked struct {
	who caller
	err error
}

// login checks a name and a password. The answer to a wrong name is that to a
// wrong password.
func (ex *exchange) login(name, password string) (caller, *apiError) {
	late := time.NewTimer(ex.throttle.times.checked)
	defer late.Stop()
	failing := time.NewTimer(ex.throttle.times.failed)
	defer failing.Stop()
	guessable := !ex.accounts.isToken(name, password)
	attempt, refusal := ex.throttle.admit(ex.clientIP(), name, password, guessable)
	if refusal != nil {
		id, _ := accesstoken.Parse(password)
		ex.record(zap.WarnLevel, auditLine{auditThrottled, ex.accounts.shownName(name, password), "", id, refusal.reason})
		e := refuse(tooManyRequests, "%s; try again later", refusal.reason)
		e.retryAfter = max(refusal.wait, time.Second)
		return caller{}, e
	}
	gone := ex.r.Context().Done()
	var result checked
	select {
	case result = <-ex.check(attempt, name, password):
		if result.err == nil {
			logAccessToken(ex.r, result.who.token)
			return result.who, nil
		}
	case <-late.C:
		result.err = errUnfinished
	case <-gone:
	}
	select {
	case <-failing.C:
	case <-gone:
	}
	if ex.r.Context().Err() != nil {
		return caller{}, refuse(clientGone, "the client has left")
	}
	return result.who, ex.loginFailed(result.err)
}

// check checks a login in the background, and releases the attempt when that has
// ended.
func (ex *exchange) check(attempt *attempt, name, password string) <-chan checked {
	done := make(chan checked, 1)
	own, cancel := ex.beside(checkLimit)
	_, isToken := accesstoken.Parse(password)
	leave, err := attempt.beginCheck(isToken)
	if err != nil {
		own.settle(attempt, name, password, caller{}, err)
		attempt.release()
		cancel()
		done <- checked{err: err}
		return done
	}
	login := Login{Name: name, Password: password, Request: own.r, friendly: attempt.friendly, subnet: attempt.subnet, token: !attempt.guessable}
	go func() {
		defer cancel()
		defer leave()
		defer attempt.release()
		who, err := own.authenticate(login)
		own.settle(attempt, name, password, who, err)
		done <- checked{who, err}
	}()
	return done
}

// beginCheck takes a place for a check until leave is called. An error that is
// errBusy says that there is none. Equal logins of one address at a time, as of a
// CI's jobs, have places of their own, since they share what checking costs.
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
	return nil, errBusy
}

// hasEqual reports whether the same login of the same address is being checked.
func (a *attempt) hasEqual() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.flights[0] != nil && a.flights[0].flying[a.login] > 1
}

// authenticate asks the directories. A panic of a guest fails the login, as it
// would fail the request if the request waited for it.
func (ex *exchange) authenticate(login Login) (who caller, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			who, err = caller{}, fmt.Errorf("checking a login: panic: %v", cause)
		}
	}()
	return ex.accounts.authenticate(ex.r.Context(), login)
}

// beside is the exchange for work that may outlast the request: with a context
// of its own, and with copies of what the request's other handlers may change.
func (ex *exchange) beside(limit time.Duration) (*exchange, context.CancelFunc) {
	ctx, cancel := background(ex.r.Context(), limit)
	if vars, ok := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any); ok {
		ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, maps.Clone(vars))
	}
	own := *ex
	own.w, own.r = nil, ex.r.Clone(ctx)
	return &own, cancel
}

// settle charges what has come of a check, and logs it.
func (ex *exchange) settle(a *attempt, name, password string, who caller, err error) {
	id, _ := accesstoken.Parse(password)
	line := auditLine{auditLoginRefused, ex.accounts.shownName(name, password), who.directory, id, ""}
	trouble := err
	switch hidden := (*hiddenRefusal)(nil); {
	case err == nil:
		a.accepted()
		ex.recordLogin(who, a.repeated)
		return
	case isRefusal(err):
		trouble = nil
		if errors.As(err, &hidden) {
			trouble = hidden.trouble
		}
		// An address that has logged in to the account knows that it exists,
		// so its guesses count in full.
		if trouble == nil || a.known {
			a.refused()
		} else {
			a.undecided()
		}
		line.reason = refusalReason(err, who.directory, password)
		ex.record(zap.WarnLevel, line)
	default:
		a.undecided()
	}
	switch {
	case trouble == nil:
	case !errors.Is(trouble, errBusy):
		ex.logger.Error("cannot check a login", zap.String("error", troubleText(trouble, password)))
	case !isRefusal(err):
		line.event, line.reason = auditThrottled, errBusy.Error()
		ex.record(zap.WarnLevel, line)
	}
}

// loginFailed words for the client that a login has failed: it is wrong, or it
// cannot be told now. The latter is one text for whatever trouble there is, since
// the trouble could tell which directory knows the name.
func (ex *exchange) loginFailed(err error) *apiError {
	if hidden := (*hiddenRefusal)(nil); errors.As(err, &hidden) {
		err = hidden.trouble
	}
	if isRefusal(err) {
		return refuse(unauthorized, "wrong user name or password")
	}
	return undecided(err)
}
