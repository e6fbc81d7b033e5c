package caddymodule

import (
	"errors"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// exchange is one request and what has become known about it.
type exchange struct {
	*Handler
	w      http.ResponseWriter
	r      *http.Request
	route  route
	origin origin
	caller caller
}

var apiVersion = []string{"registry/2.0"}

// serveRegistry answers what is under /v2/: first who, then whether, then what.
func (ex *exchange) serveRegistry() *apiError {
	origin, err := ex.findOrigin(ex.r)
	if err != nil {
		return err
	}
	ex.origin = origin
	if err := ex.identify(); err != nil {
		return err
	}
	switch ex.route.kind {
	case pingKind:
		return ex.servePing()
	case unknownKind:
		return refuse(nameUnknown, "this registry has no such path; images are at %s/GROUP%sIMAGE", ex.origin.registry, infix)
	}
	if err := ex.authorize(Member); err != nil {
		return err
	}
	repo, err := ex.repository(ex.route, ex.r.URL.Query().Get("ns"))
	if err != nil {
		return err
	}
	switch ex.route.kind {
	case manifestKind:
		return ex.serveManifest(repo)
	case blobKind:
		return ex.serveBlob(repo)
	case tagsKind:
		return ex.serveTags(repo)
	}
	return ex.serveReferrers(repo)
}

func (ex *exchange) servePing() *apiError {
	h := ex.w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{"2"}
	h["Cache-Control"] = noTransform
	ex.w.WriteHeader(http.StatusOK)
	if ex.r.Method != http.MethodHead {
		_, _ = ex.w.Write([]byte("{}"))
	}
	return nil
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
	name, password, ok := ex.r.BasicAuth()
	if !ok {
		return ex.challenge("", "the Authorization header is neither Bearer nor Basic")
	}
	caller, err := ex.login(ex.r, name, password)
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
	who, err := ex.bearer(raw, tokenissuer.Access)
	switch {
	case err == nil:
		ex.identified(who)
		return nil
	case errors.Is(err, tokenissuer.ErrTokenExpired):
		return ex.challenge("invalid_token", "the token has expired")
	case isRefusal(err):
		ex.logger.Debug("token refused", zap.Error(err))
		return ex.challenge("invalid_token", "the token is not valid here, or no longer")
	}
	return ex.cannotTell("verify a token", err)
}

// bearer is the account of a token as it is now.
func (ex *exchange) bearer(raw string, use tokenissuer.Use) (caller, error) {
	id, err := ex.issuer.Verify(ex.r.Context(), raw, ex.origin.issuer(), use)
	if err != nil {
		return caller{}, err
	}
	who, err := ex.accounts.current(ex.r.Context(), id)
	logAccessToken(ex.r, who.token)
	return who, err
}

// isRefusal tells a login or a token that is no good from one that cannot be
// judged.
func isRefusal(err error) bool {
	return errors.Is(err, tokenissuer.ErrInvalidToken) || errors.Is(err, ErrUnknownAccount) ||
		errors.Is(err, ErrWrongPassword) || errors.Is(err, ErrBlocked)
}

// login checks a name and a password. The answer to a wrong name is that to a
// wrong password.
func (h *Handler) login(r *http.Request, name, password string) (caller, *apiError) {
	who, err := h.accounts.authenticate(r.Context(), Login{Name: name, Password: password, Request: r})
	client, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	fields := append(loginFields(name, password), zap.String("client_ip", client))
	switch {
	case err == nil:
		logAccessToken(r, who.token)
		h.logger.Debug("login", fields...)
		return who, nil
	case isRefusal(err):
		h.logger.Warn("login refused", append(fields, zap.Error(err))...)
		return who, refuse(unauthorized, "wrong user name or password")
	}
	return who, h.cannotTell("check a login", err)
}

// cannotTell fails closed: without an answer nobody gets in.
func (h *Handler) cannotTell(what string, err error) *apiError {
	h.logger.Error("cannot "+what, zap.Error(err))
	e := refuse(unavailable, "it cannot be checked now who you are; try again")
	e.cause, e.retryAfter = err, retrySoon
	return e
}

// identified puts the account where Caddy's access log looks for it.
func (ex *exchange) identified(who caller) {
	ex.caller = who
	if repl, ok := ex.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok && !who.anonymous {
		repl.Set("http.auth.user.id", who.Name)
	}
}

// authorize decides whether the caller has a role in the group, now. Why not
// is told to insiders alone.
func (ex *exchange) authorize(want Role) *apiError {
	v, err := ex.access.decide(ex.r.Context(), ex.caller, ex.route.group, want)
	if err != nil {
		return ex.cannotTell("decide about a group", err)
	}
	if v.ok {
		return nil
	}
	ex.logger.Info("pull denied",
		zap.String("account", ex.caller.Name), zap.String("access_token", ex.caller.token),
		zap.String("group", ex.route.group), zap.String("reason", v.rule))
	e := refuse(denied, "group %s does not exist, or you may not pull from it; ask its owner to make %s a member", ex.route.group, ex.caller.Name)
	if ex.caller.token != "" {
		e = refuse(denied, "group %s does not exist, or the access token %s may not pull from it", ex.route.group, ex.caller.token)
	}
	if ex.caller.anonymous {
		e = refuse(denied, "you are not logged in, or group %s does not exist; log in with: docker login %s", ex.route.group, ex.origin.registry)
	}
	if v.insider {
		e.detail = ruleDetail{v.rule}
	}
	return e
}

// ruleDetail is the detail of a denial for those who may know it.
type ruleDetail struct {
	Rule string `json:"rule"`
}

// refuse sends an error and logs what only the operator should know.
func (ex *exchange) refuse(e *apiError) {
	if e.cause != nil {
		level := zap.InfoLevel
		if e.problem == badGateway {
			level = zap.WarnLevel
		}
		ex.logger.Log(level, "pull failed", zap.String("group", ex.route.group), zap.String("image", ex.route.image),
			zap.Int("status", e.status), zap.Error(e.cause))
	}
	writeError(ex.w, ex.r, e)
}
