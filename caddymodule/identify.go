package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// mirrorGroup is the parameter of the realm that names the group of a mirror.
const mirrorGroup = "group"

// identify sets the caller from the Authorization header. Where an anonymous client
// may pull, a login is not checked, and the caller is anonymous; see
// [exchange.ignoresLogin].
func (ex *exchange) identify() *apiError {
	header := ex.r.Header.Get("Authorization")
	if header == "" {
		return ex.challenge("", "log in with: docker login %s", ex.origin.registry)
	}
	scheme, token, _ := strings.Cut(header, " ")
	if strings.EqualFold(scheme, "Bearer") {
		return ex.identifyToken(strings.TrimSpace(token))
	}
	name, secret, ok := ex.r.BasicAuth()
	if !ok {
		return ex.challenge("", "invalid Authorization header; use Basic or Bearer")
	}
	if ex.ignoresLogin() {
		ex.setCaller(access.Caller{Anonymous: true})
		return nil
	}
	caller, err := ex.login(name, secret)
	if err != nil {
		if err.problem == unauthorized {
			return ex.challenge("", "%s", err.message)
		}
		return err
	}
	ex.setCaller(caller)
	return nil
}

// ignoresLogin reports whether the request is only about public groups. Docker sends
// its login of Docker Hub to mirrors, so the login of such a request may be meant for
// another registry: it is neither checked nor counted as a failed one nor logged, and
// the response is that to an anonymous client. An invalid token is refused all the
// same, because clients then get a new one.
//
// A request that names no group, such as that of docker login, or any that is not
// public has its login checked. The decision is that for an anonymous client, so it
// tells nothing more about a group.
func (ex *exchange) ignoresLogin() bool {
	groups, all := requestedGroups(ex.r)
	return all && !ex.route.isPage() && ex.handler.policy.ArePublic(ex.r.Context(), ex.rec.Address, groups)
}

// identifyToken sets the caller from a token of the token service.
func (ex *exchange) identifyToken(raw string) *apiError {
	caller, _, err := ex.bearer(raw, tokenissuer.Access)
	line := auditLine{auditTokenRefused, caller.Name, caller.Directory, caller.Token, ""}
	switch {
	case err == nil:
		ex.setCaller(caller)
		return nil
	case errors.Is(err, tokenissuer.ErrTokenExpired):
		line.reason = "expired"
		ex.auditor().record(zap.InfoLevel, line)
		return ex.challenge("invalid_token", "the token has expired")
	case directory.IsRefusal(err):
		line.reason = access.RefusalReason(err, caller.Directory, raw)
		ex.auditor().record(zap.WarnLevel, line)
		return ex.challenge("invalid_token", "the token is not valid for this registry")
	}
	return ex.handler.unavailable("verify a token", err)
}

// bearer returns the present account of a token and the identity in the token. With
// an error about the account of a genuine token, the caller has the name that the
// token says.
func (ex *exchange) bearer(raw string, use tokenissuer.Use) (access.Caller, tokenissuer.Identity, error) {
	id, err := ex.handler.issuer.Verify(ex.r.Context(), raw, ex.origin.issuer, use)
	if err != nil {
		return access.Caller{}, id, err
	}
	caller, err := ex.handler.accounts.Current(ex.r.Context(), id)
	if err != nil {
		caller = access.Caller{Account: directory.Account{Name: id.Name}, Directory: id.Directory}
		if id.Directory == access.TokensDirectory {
			caller.Token = id.Facts
		}
	}
	record.LogAccessToken(ex.r.Context(), caller.Token)
	return caller, id, err
}

// challenge returns a 401 that tells the client where to get a token (RFC 6750,
// section 3). Every path sends it, because many clients do not request /v2/ first.
// The code must be empty unless the client sent a token: clients that receive a code
// do not try again.
//
// The realm of a mirror's ping names the group. Docker requests a token for the
// mirrored image with it, and does so with its login of Docker Hub.
func (ex *exchange) challenge(code, format string, args ...any) *apiError {
	realm := cmp.Or(ex.handler.Realm, ex.origin.issuer+"/jwt/auth")
	if ex.route.kind == pingKind && ex.route.group != "" {
		realm += "?" + url.Values{mirrorGroup: {ex.route.group}}.Encode()
	}
	c := fmt.Sprintf("Bearer realm=%q,service=%q", realm, service)
	if ex.route.image != "" {
		c += fmt.Sprintf(",scope=%q", "repository:"+ex.route.name()+":pull")
	}
	if code != "" {
		c += fmt.Sprintf(",error=%q", code)
	}
	ex.w.Header()["Www-Authenticate"] = []string{c}
	return refuse(unauthorized, format, args...)
}

// basicChallenge requests a user name and a password, for paths that clients open
// without a token. A 401 requires a challenge (RFC 9110, section 15.5.2).
func (ex *exchange) basicChallenge() {
	ex.w.Header()["Www-Authenticate"] = []string{`Basic realm="dependency proxy", charset="UTF-8"`}
}

// login authenticates a name and a password. The error does not reveal whether the
// name exists. All failures to check the login have the same text too, because the
// kind of failure could reveal which directory knows the name.
func (ex *exchange) login(name, secret string) (access.Caller, *apiError) {
	id, _ := accesstoken.Parse(secret)
	line := auditLine{auditLoginRefused, ex.handler.accounts.ShownName(name, secret), "", id, ""}
	level := zap.InfoLevel
	if ex.route.kind != authKind {
		level = zap.DebugLevel // repeated with each request, which the access log has
	}
	h, audit := ex.handler, ex.auditor()
	groups, _ := requestedGroups(ex.r)
	caller, err := h.gate.Login(access.Login{
		Name: name, Password: secret, Address: ex.rec.Address, Request: ex.r, Groups: groups,
	}, func(o access.Outcome) {
		h.logLogin(o, audit, line, secret, level)
	})
	limited := (*access.Throttled)(nil)
	switch {
	case err == nil:
		record.LogAccessToken(ex.r.Context(), caller.Token)
		return caller, nil
	case errors.As(err, &limited):
		line.event, line.reason = auditThrottled, limited.Reason
		audit.record(zap.WarnLevel, line)
		e := refuse(tooManyRequests, "%s; try again later", limited.Reason)
		e.result, e.retryAfter = record.Throttled, max(limited.Wait, time.Second)
		return caller, e
	case ex.r.Context().Err() != nil:
		return caller, refuse(clientGone, "the client has closed the connection")
	case directory.IsRefusal(err):
		return caller, refuse(unauthorized, "wrong user name or password")
	}
	return caller, authUnavailable(err)
}

// logLogin logs and counts the outcome of a login, possibly after the end of its request. A
// login that is repeated has a level of its own.
func (h *Handler) logLogin(o access.Outcome, audit auditor, line auditLine, secret string, repeated zapcore.Level) {
	h.metered.Login(o)
	line.directory = o.Caller.Directory
	failure := o.HiddenBy
	switch {
	case o.Err == nil && o.Repeated:
		audit.record(repeated, auditLine{auditLogin, o.Caller.Name, o.Caller.Directory, o.Caller.Token, "password as before"})
		return
	case o.Err == nil:
		audit.record(zap.InfoLevel, auditLine{auditLogin, o.Caller.Name, o.Caller.Directory, o.Caller.Token, "password"})
		return
	case directory.IsRefusal(o.Err):
		line.reason = access.RefusalReason(o.Err, o.Caller.Directory, secret)
		audit.record(zap.WarnLevel, line)
	case errors.Is(o.Err, password.ErrBusy):
		line.event, line.reason = auditThrottled, password.ErrBusy.Error()
		audit.record(zap.WarnLevel, line)
	default:
		failure = o.Err
	}
	if failure != nil && !errors.Is(failure, password.ErrBusy) {
		h.logger.Error("cannot check a login", zap.String("error", access.ErrorText(failure, secret)))
	}
}

// basicLogin authenticates the Authorization header of a request to the token
// service. Some clients send a refresh token there, as the password of the empty
// name.
func (ex *exchange) basicLogin(name, secret string) (access.Caller, *apiError) {
	if name == "" && ex.handler.Token.RefreshTokens && strings.Count(secret, ".") == 2 {
		caller, err := ex.refresh(secret)
		if err == nil || err.problem != unauthorized {
			return caller, err
		}
	}
	return ex.login(name, secret)
}

// refresh returns the account that a refresh token was issued to.
func (ex *exchange) refresh(raw string) (access.Caller, *apiError) {
	if !ex.handler.Token.RefreshTokens {
		return access.Caller{}, refuse(unauthorized, "refresh tokens are off; log in again with: docker login %s", ex.origin.registry)
	}
	caller, id, err := ex.bearer(raw, tokenissuer.Refresh)
	if caller.Refresh = (access.RefreshToken{Raw: raw, Ends: time.Unix(id.AuthTime, 0).Add(refreshFor(caller))}); err == nil && !time.Now().Before(caller.Refresh.Ends) {
		err = fmt.Errorf("%w: its login is too long ago", directory.ErrUnknownAccount)
	}
	switch {
	case err == nil:
		ex.auditor().record(zap.InfoLevel, auditLine{auditLogin, caller.Name, caller.Directory, caller.Token, "refresh token"})
		return caller, nil
	case directory.IsRefusal(err):
		ex.auditor().record(zap.WarnLevel, auditLine{auditTokenRefused, caller.Name, caller.Directory, caller.Token, "refresh token: " + access.RefusalReason(err, caller.Directory, raw)})
		return caller, refuse(unauthorized, "the refresh token is invalid or has expired; log in again with: docker login %s", ex.origin.registry)
	}
	return caller, ex.handler.unavailable("verify a refresh token", err)
}

// refreshFor returns how long after a login the refresh tokens of the caller are
// valid. The limit of a directory does not apply to logins with an access token,
// which has a lifetime of its own.
func refreshFor(caller access.Caller) time.Duration {
	if caller.RefreshFor == 0 || caller.Token != "" {
		return refreshLifetime
	}
	return min(caller.RefreshFor, refreshLifetime)
}

// unavailable logs that an action failed and returns a 503. Access is denied while
// credentials or rights cannot be checked.
func (h *Handler) unavailable(action string, err error) *apiError {
	h.logger.Error("cannot "+action, zap.Error(err))
	return authUnavailable(err)
}

// authUnavailable returns the 503 of all failures to check credentials or rights.
func authUnavailable(err error) *apiError {
	e := refuse(unavailable, "authentication is temporarily unavailable; try again later")
	e.cause, e.retryAfter = err, retrySoon
	var waits interface{ RetryAfter() time.Duration } // see directory.Directory
	if errors.As(err, &waits) && waits.RetryAfter() > 0 {
		e.retryAfter = waits.RetryAfter()
	}
	return e
}
