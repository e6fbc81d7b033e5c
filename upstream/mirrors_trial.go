package upstream

import (
	"context"
	"errors"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/flight"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/circuit"
)

// trialPatience is how long the request on whose behalf a version check is sent waits for
// the result.
const trialPatience = 2 * time.Second

var errTrial = errors.New("the trial goes on")

// begin begins an attempt. If the address is down, it sends a version check first, and
// returns an error unless the address answers the check within trialPatience. The check
// continues if the request is canceled, and its result is that of the trial.
func (a *attempt) begin(ctx context.Context) error {
	if !a.turn.Check {
		return nil
	}
	r := a.registry
	waiting, cancel := context.WithTimeoutCause(ctx, trialPatience, errTrial)
	defer cancel()
	_, err := flight.Do(waiting, &r.trials, "", func(ctx context.Context) (struct{}, error) {
		ctx, cancel := r.withTimeout(ctx)
		defer cancel()
		err := r.askVersion(ctx)
		if e := (*Error)(nil); errors.As(err, &e) && e.ofEndpoint() {
			a.recordFailure(e)
			return struct{}{}, err
		}
		r.pause.Proved(a.turn, r.now())
		return struct{}{}, nil
	})
	switch {
	case errors.Is(err, errTrial):
		if held := r.pause.Held(r.now()); held != nil {
			return heldError(held)
		}
	case err != nil:
		return err
	}
	var held *circuit.Held
	if a.turn, held = r.pause.Take(r.now()); held != nil {
		return heldError(held)
	}
	return nil
}

// versionAnswered is the key under which probes records for probePeriod that the registry
// has answered a version check.
const versionAnswered = "version"

// checkVersion sends a version check, unless the registry has answered one within
// probePeriod. If it cannot answer, that counts as a failure of the address. The check
// continues if the request is canceled.
func (a *attempt) checkVersion(ctx context.Context) {
	r := a.registry
	if answer, ok := r.probes.Peek(versionAnswered); ok && answer.IsFresh() {
		return
	}
	waiting, cancel := context.WithTimeoutCause(ctx, trialPatience, errTrial)
	defer cancel()
	_, _ = flight.Do(waiting, &r.trials, versionAnswered, func(ctx context.Context) (struct{}, error) {
		ctx, cancel := r.withTimeout(ctx)
		defer cancel()
		if e := (*Error)(nil); errors.As(r.askVersion(ctx), &e) && e.ofEndpoint() {
			a.recordFailure(e)
		} else {
			r.probes.Set(versionAnswered, undecided)
		}
		return struct{}{}, nil
	})
}
