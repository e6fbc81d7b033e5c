package caddymodule

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabapi"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// login checks a name and a password. The answer to a wrong name is that to a
// wrong password. If the login cannot be checked, there is one text for whatever
// trouble there is, since the trouble could tell which directory knows the name.
func (ex *exchange) login(name, secret string) (access.Caller, *apiError) {
	id, _ := accesstoken.Parse(secret)
	line := auditLine{auditLoginRefused, ex.h.accounts.ShownName(name, secret), "", id, ""}
	level := zap.InfoLevel
	if ex.route.kind != authKind {
		level = zap.DebugLevel // the access log has each request
	}
	h, audit := ex.h, ex.auditor()
	who, err := ex.h.gate.Login(access.Login{
		Name: name, Password: secret, Address: ex.clientIP(), Request: ex.r, Groups: askedGroups(ex.r),
	}, func(o access.Outcome) {
		h.loginSettled(o, audit, line, secret, level)
	})
	limited := (*access.Throttled)(nil)
	switch {
	case err == nil:
		logAccessToken(ex.r, who.Token)
		return who, nil
	case errors.As(err, &limited):
		line.event, line.reason = auditThrottled, limited.Reason
		audit.record(zap.WarnLevel, line)
		e := refuse(tooManyRequests, "%s; try again later", limited.Reason)
		e.retryAfter = max(limited.Wait, time.Second)
		return who, e
	case ex.r.Context().Err() != nil:
		return who, refuse(clientGone, "the client has left")
	case directory.IsRefusal(err):
		return who, refuse(unauthorized, "wrong user name or password")
	}
	return who, undecided(err)
}

// loginSettled logs the outcome of a login. Repeated ones have their own level.
func (h *Handler) loginSettled(o access.Outcome, audit auditor, line auditLine, secret string, repeated zapcore.Level) {
	line.directory = o.Caller.Directory
	trouble := o.HiddenBy
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
		trouble = o.Err
	}
	if trouble != nil && !errors.Is(trouble, password.ErrBusy) {
		h.logger.Error("cannot check a login", zap.String("error", access.ErrorText(trouble, secret)))
	}
}

// basic is the login of an Authorization header at the token service. Clients
// that keep a refresh token and find no POST send it as the password of nobody.
func (ex *exchange) basic(name, secret string) (access.Caller, *apiError) {
	if name == "" && ex.h.Token.RefreshTokens && strings.Count(secret, ".") == 2 {
		who, err := ex.refresh(secret)
		if err == nil || err.problem != unauthorized {
			return who, err
		}
	}
	return ex.login(name, secret)
}

// refresh turns a refresh token back into the account that it was issued to.
func (ex *exchange) refresh(raw string) (access.Caller, *apiError) {
	if !ex.h.Token.RefreshTokens {
		return access.Caller{}, refuse(unauthorized, "refresh tokens are off; log in again with: docker login %s", ex.origin.registry)
	}
	who, id, err := ex.bearer(raw, tokenissuer.Refresh)
	if who.Refresh = (access.RefreshToken{Raw: raw, Ends: time.Unix(id.AuthTime, 0).Add(refreshFor(who))}); err == nil && !time.Now().Before(who.Refresh.Ends) {
		err = fmt.Errorf("%w: its login is too long ago", directory.ErrUnknownAccount)
	}
	switch {
	case err == nil:
		ex.record(zap.InfoLevel, auditLine{auditLogin, who.Name, who.Directory, who.Token, "refresh token"})
		return who, nil
	case directory.IsRefusal(err):
		ex.record(zap.WarnLevel, auditLine{auditTokenRefused, who.Name, who.Directory, who.Token, "refresh token: " + access.RefusalReason(err, who.Directory, raw)})
		return who, refuse(unauthorized, "the refresh token is not valid, or no longer; log in again with: docker login %s", ex.origin.registry)
	}
	return who, ex.h.cannotTell("verify a refresh token", err)
}

// bearer is the account of a token as it is now, and what the token says. With a refusal it has the
// name that is in the token, if that is genuine.
func (ex *exchange) bearer(raw string, use tokenissuer.Use) (access.Caller, tokenissuer.Identity, error) {
	id, err := ex.h.issuer.Verify(ex.r.Context(), raw, ex.origin.issuer(), use)
	if err != nil {
		return access.Caller{}, id, err
	}
	who, err := ex.h.accounts.Current(ex.r.Context(), id)
	if err != nil {
		who = access.Caller{Account: directory.Account{Name: id.Name}, Directory: id.Directory}
		if id.Directory == access.TokensDirectory {
			who.Token = id.Facts
		}
	}
	logAccessToken(ex.r, who.Token)
	return who, id, err
}

// refreshFor is how long after its login a refresh token of the caller is good
// for. That of an access token goes by the access token, not by a password.
func refreshFor(who access.Caller) time.Duration {
	if who.RefreshFor == 0 || who.Token != "" {
		return refreshLifetime
	}
	return min(who.RefreshFor, refreshLifetime)
}

// cannotTell fails closed: without an answer nobody gets in.
func (h *Handler) cannotTell(what string, err error) *apiError {
	h.logger.Error("cannot "+what, zap.Error(err))
	return undecided(err)
}

// undecided is the answer where it cannot be told who the client is.
func undecided(err error) *apiError {
	e := refuse(unavailable, "it cannot be checked now who you are; try again")
	e.cause, e.retryAfter = err, retrySoon
	if trouble := (*gitlabapi.Trouble)(nil); errors.As(err, &trouble) && trouble.RetryAfter > 0 {
		e.retryAfter = trouble.RetryAfter
	}
	return e
}

// identify finds out who is asking, from a token or a login.
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
		return ex.challenge("", "the Authorization header is neither Bearer nor Basic")
	}
	caller, err := ex.login(name, secret)
	if err != nil {
		if err.problem == unauthorized {
			return ex.challenge("", "%s", err.message)
		}
		return err
	}
	ex.identified(caller)
	return nil
}

func (ex *exchange) identifyToken(raw string) *apiError {
	who, _, err := ex.bearer(raw, tokenissuer.Access)
	line := auditLine{auditTokenRefused, who.Name, who.Directory, who.Token, ""}
	switch {
	case err == nil:
		ex.identified(who)
		return nil
	case errors.Is(err, tokenissuer.ErrTokenExpired):
		line.reason = "expired"
		ex.record(zap.InfoLevel, line)
		return ex.challenge("invalid_token", "the token has expired")
	case directory.IsRefusal(err):
		line.reason = access.RefusalReason(err, who.Directory, raw)
		ex.record(zap.WarnLevel, line)
		return ex.challenge("invalid_token", "the token is not valid here, or no longer")
	}
	return ex.h.cannotTell("verify a token", err)
}
