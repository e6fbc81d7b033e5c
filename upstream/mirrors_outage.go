package upstream

import (
	"errors"
	"net/http"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/circuit"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/dial"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

// isOutage reports whether an error of a kind means that an address cannot answer.
func isOutage(kind Kind) bool { return kind == Unavailable || kind == Timeout || kind == RateLimited }

// isOverload reports whether a status is what a proxy in front of a dead or overloaded
// server sends.
func isOverload(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

// isForbidden reports whether the request was not sent, because its address is private.
func (e *Error) isForbidden() bool {
	var blocked *dial.BlockedError
	return errors.As(e.cause, &blocked)
}

// ofEndpoint reports whether the error may mean that the registry as a whole cannot
// answer: there was no connection, no header of a response arrived in time, or the
// response is what a proxy in front of a dead server sends.
func (e *Error) ofEndpoint() bool {
	switch e.Kind {
	case Unavailable:
		return e.own && (e.Status == 0 || isOverload(e.Status))
	case Timeout:
		return e.own && e.Status == 0
	}
	return false
}

// failure returns what the error says about the address.
func (e *Error) failure() *circuit.Failure {
	return &circuit.Failure{Err: e, Limited: e.Kind == RateLimited, Outage: e.ofEndpoint(), Unconfirmed: e.head, Repository: e.repository, RetryAfter: e.RetryAfter}
}

// asUnsent returns a copy of an error of a request that was not sent, because there is no
// login, to save a pull, or because the error of an earlier one is remembered. It is
// neither a failure of the address nor an answer.
func asUnsent(err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	unsent := *e
	unsent.unsent = true
	return &unsent
}

// heldError returns the error of a request that is not sent. The last failure may be
// about another repository, so the text does not name one.
func heldError(held *circuit.Held) *Error {
	last := held.Err.(*Error)
	message := "the last request failed"
	switch {
	case held.IsDown:
		message = "the registry does not answer; it is tried again from time to time"
	case last.Limit != ratelimit.Unlimited:
		message = last.Limit.Message() + "; the registry is tried again from time to time"
	}
	e := &Error{Kind: last.Kind, Status: last.Status, Held: true, Limit: last.Limit, upstream: last.upstream, message: message, cause: last.cause}
	switch {
	case held.OnTrial: // the trial usually takes less
		e.RetryAfter = time.Second
	case !held.Limited || held.RetryAfter > 0:
		e.RetryAfter = max(time.Second, held.Left)
	}
	return e
}
