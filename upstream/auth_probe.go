package upstream

import (
	"context"
	"crypto/sha256"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

const (
	// probePeriod is how long the answer to a probe is remembered, so how often a
	// registry or token service is probed at most.
	probePeriod = time.Minute

	// outagePeriod is the same for a registry that cannot answer.
	outagePeriod = 5 * time.Second

	// probeTimeout limits a probe. It leaves time for the request that waits for it.
	probeTimeout = 10 * time.Second

	// maxProbes is the number of answers that are remembered. A registry has a few
	// token services and one login at a time.
	maxProbes = 64

	// challengeProbe is the purpose of the probe for the registry's challenge.
	challengeProbe = "challenge"
)

// loginAnswer is what the response to a probe says about a login.
type loginAnswer int

const (
	undecided loginAnswer = iota
	accepted
	refused
)

// newProbes returns the memory of probes.
func newProbes() *memo.Cache[loginAnswer] {
	return memo.New(memo.Config[loginAnswer]{Size: maxProbes, Fresh: probePeriod, Timeout: probeTimeout,
		Judge: func(error) (memo.Verdict, time.Duration) { return memo.Refused, outagePeriod }})
}

// probe sends the request ask and returns what the response says about a login. It
// remembers that for probePeriod by the purpose and the login; concurrent calls
// share a request.
func (r *Registry) probe(ctx context.Context, purpose string, login auth.Login, ask func(context.Context) (*response, error)) loginAnswer {
	sum := sha256.Sum256([]byte(login.Header()))
	v, err := r.probes.Get(ctx, purpose+"\x00"+string(sum[:]), func(ctx context.Context) (loginAnswer, error) {
		resp, err := ask(ctx)
		if err != nil {
			return undecided, nil
		}
		discard(resp.Body)
		switch {
		case resp.StatusCode == http.StatusOK:
			return accepted, nil
		case !resp.foreign && (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden):
			return refused, nil
		}
		return undecided, nil
	})
	if err != nil {
		return undecided
	}
	return v
}

func newVersionCall() *call {
	return &call{method: http.MethodGet, header: http.Header{}, object: "version check"}
}

// versionCheck sends GET /v2/ (distribution-spec v1.1, "Determining Support"),
// which clients send first: a registry answers it with the challenge that it may
// not send for a repository which it hides.
func (r *Registry) versionCheck(ctx context.Context, login auth.Login) (*response, error) {
	return r.follow(ctx, newVersionCall(), newTrail(r.endpoint.JoinPath("/")), login.Header())
}

// learnChallenge asks the registry for its challenge, so that the first request
// can carry the login. If it gets none, the answers to requests have to tell. The error
// is that of a registry that cannot answer, which is asked again after outagePeriod.
func (r *Registry) learnChallenge(ctx context.Context, c *call) error {
	var asked atomic.Bool
	_, err := r.probes.Get(ctx, challengeProbe, func(ctx context.Context) (loginAnswer, error) {
		asked.Store(true)
		return undecided, r.receiveChallenge(ctx, c)
	})
	if err != nil && KindOf(err) == Other && ctx.Err() == nil {
		err = r.newError(newVersionCall(), Timeout, 0, timeoutError(probeTimeout).Error())
	}
	if err != nil && !asked.Load() {
		return asUnsent(err)
	}
	return err
}

// receiveChallenge sends a version check and remembers the challenge in the response.
// The error is that of a registry that cannot answer.
func (r *Registry) receiveChallenge(ctx context.Context, c *call) error {
	resp, err := r.versionCheck(ctx, auth.Login{})
	if err != nil {
		return err
	}
	if e := r.statusError(newVersionCall(), resp); isOutage(e.Kind) && !resp.foreign {
		return e
	}
	if resp.StatusCode != http.StatusUnauthorized || resp.foreign {
		return nil
	}
	if challenge, err := r.selectChallenge(c, resp.Header); err == nil {
		r.challenge.Store(challenge)
		r.versioned.Store(challenge)
	}
	return nil
}

// otherChallenge returns the challenge of the registry after a token request that
// answers an earlier one has failed with err: the token service may have moved, or that
// of a single repository may be down. It returns nil if the registry has no other.
func (r *Registry) otherChallenge(ctx context.Context, c *call, failed *auth.Challenge, err error) *auth.Challenge {
	switch KindOf(err) {
	case Unavailable, Timeout, Invalid, Credentials:
	default:
		return nil
	}
	if ctx.Err() != nil {
		return nil
	}
	if asked, ok := r.probes.Peek(challengeProbe); !ok || !asked.IsFresh() {
		_, _ = r.probes.Get(ctx, challengeProbe+" again", func(ctx context.Context) (loginAnswer, error) {
			_ = r.receiveChallenge(ctx, c) // a failure is remembered, too
			return undecided, nil
		})
	}
	if challenge := r.versioned.Load(); challenge != nil && !challenge.SameToken(failed) {
		return challenge
	}
	return nil
}

// refusesLogin reports whether the registry refuses the login itself, which it
// answered with 403 for a repository.
func (r *Registry) refusesLogin(ctx context.Context, login auth.Login) bool {
	return r.probe(ctx, "login", login, func(ctx context.Context) (*response, error) {
		return r.versionCheck(ctx, login)
	}) == refused
}

// askVersion sends a version check, and returns an error if the registry as a whole
// cannot answer.
func (r *Registry) askVersion(ctx context.Context) error {
	resp, err := r.versionCheck(ctx, auth.Login{})
	if err != nil {
		return err
	}
	if e := r.statusError(newVersionCall(), resp); e.ofEndpoint() {
		return e
	}
	return nil
}
