package caddymodule

import (
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// service is the name of this registry at its token service.
const service = "dependency_proxy"

// maxForm is the size limit of the body of a token request, in bytes.
const maxForm = 64 << 10

// serveTokens is the token service: the token protocol of the Docker registry for
// GET, its OAuth2 form for POST, and the public keys.
func (ex *exchange) serveTokens() *apiError {
	ex.w.Header().Set("Cache-Control", "no-store")
	if ex.route.kind == keysKind {
		return ex.serveKeys()
	}
	if err := ex.locate(); err != nil {
		return err
	}
	serve := ex.serveQuery
	if ex.r.Method == http.MethodPost {
		serve = ex.serveGrant
	}
	err := serve()
	if err != nil && err.problem == unauthorized {
		ex.basicChallenge()
	}
	return err
}

// serveQuery answers a token request in the form of the Docker registry.
func (ex *exchange) serveQuery() (err *apiError) {
	query := ex.r.URL.Query()
	if err := checkService(query); err != nil {
		return err
	}
	name, password, ok := ex.r.BasicAuth()
	switch {
	case ok && ex.ignoresLogin():
		ex.caller = access.Caller{Anonymous: true}
	case ok:
		ex.caller, err = ex.basicLogin(name, password)
	default:
		ex.caller, err = ex.anonymous()
	}
	if err != nil {
		return err
	}
	offline, _ := strconv.ParseBool(query.Get("offline_token"))
	return ex.sendToken(query["scope"], offline, "")
}

func (ex *exchange) serveKeys() *apiError {
	keys, err := ex.handler.issuer.JWKS(ex.r.Context())
	if err != nil {
		return ex.handler.unavailable("read the signing keys", err)
	}
	ex.send(http.StatusOK, "application/jwk-set+json", keys)
	return nil
}

// serveGrant answers a token request in the form of OAuth2.
func (ex *exchange) serveGrant() *apiError {
	mediaType, _, err := mime.ParseMediaType(ex.r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/x-www-form-urlencoded" {
		return refuse(badRequest, "the token request must be application/x-www-form-urlencoded")
	}
	ex.r.Body = http.MaxBytesReader(ex.w, ex.r.Body, maxForm)
	if err := ex.r.ParseForm(); err != nil {
		return refuse(badRequest, "invalid form in the token request; it may have at most %d bytes", maxForm)
	}
	form := ex.r.PostForm
	if err := checkService(form); err != nil {
		return err
	}
	offline := form.Get("access_type") == "offline"
	var refusal *apiError
	switch grant := form.Get("grant_type"); {
	case grant != "password" && grant != "refresh_token":
		refusal = refuse(badRequest, "invalid grant_type; use password or refresh_token")
	case ex.ignoresLogin():
		ex.caller = access.Caller{Anonymous: true}
	case grant == "password":
		ex.caller, refusal = ex.login(form.Get("username"), form.Get("password"))
	default:
		ex.caller, refusal = ex.refresh(form.Get("refresh_token"))
	}
	if refusal != nil {
		return refusal
	}
	return ex.sendToken(form["scope"], offline, "Bearer")
}

// checkService rejects a token request for another registry.
func checkService(values url.Values) *apiError {
	if s := values.Get("service"); s != "" && s != service {
		return refuse(badRequest, "unknown service; this token service issues tokens for %s", service)
	}
	return nil
}

// anonymous returns an anonymous caller if the site may have public groups.
func (ex *exchange) anonymous() (access.Caller, *apiError) {
	if ex.r.Header.Get("Authorization") != "" || !ex.handler.policy.AllowsAnonymous() {
		return access.Caller{}, refuse(unauthorized, "log in with: docker login %s", ex.origin.registry)
	}
	return access.Caller{Anonymous: true}, nil
}

// tokenResponse is the response to a token request (distribution, "Token
// Authentication Specification" and "OAuth2"). ExpiresIn is in seconds and must be
// an integer.
type tokenResponse struct {
	Token        string `json:"token"`
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type,omitempty"`
	ExpiresIn    int    `json:"expires_in"`
	IssuedAt     string `json:"issued_at"`
	RefreshToken string `json:"refresh_token,omitempty"`
	Scope        string `json:"scope,omitempty"`
}

// sendToken issues a token that identifies the caller. It grants nothing: the rights
// of the caller are checked with each pull.
func (ex *exchange) sendToken(scopes []string, offline bool, tokenType string) *apiError {
	lifetime := ex.handler.Token.lifetime()
	if refresh := ex.caller.Refresh; refresh.Raw != "" {
		// The token must not outlive the refresh token.
		lifetime = max(tokenissuer.MinLifetime, min(lifetime, time.Until(refresh.Ends)).Truncate(time.Second))
	}
	token, err := ex.mint(tokenissuer.Access, ex.caller.Identity(), lifetime)
	if err != nil {
		return err
	}
	response := tokenResponse{
		Token:       token.Raw,
		AccessToken: token.Raw,
		ExpiresIn:   int(lifetime / time.Second),
		IssuedAt:    token.IssuedAt.UTC().Format(time.RFC3339),
		TokenType:   tokenType,
		Scope:       grantedScope(scopes),
	}
	if offline && ex.handler.Token.RefreshTokens && !ex.caller.Anonymous {
		if response.RefreshToken, err = ex.refreshToken(); err != nil {
			return err
		}
	}
	ex.rec.Result = record.OK
	return ex.sendValue(http.StatusOK, response)
}

// grantedScope returns the requested scopes that this registry can grant: pulling
// from its repositories. Clients may request others too.
func grantedScope(requested []string) string {
	var granted []string
	for _, scope := range tokenissuer.ParseScopes(requested) {
		if scope.Type == "repository" && strings.Contains(scope.Name, infix) && slices.Contains(scope.Actions, "pull") {
			scope.Actions = []string{"pull"}
			granted = append(granted, scope.String())
		}
	}
	return strings.Join(granted, " ")
}

// refreshToken returns a new refresh token after a login. After a refresh it returns
// the same one, so that no refresh token is valid for longer than the login allows.
func (ex *exchange) refreshToken() (string, *apiError) {
	if raw := ex.caller.Refresh.Raw; raw != "" {
		return raw, nil
	}
	id := ex.caller.Identity()
	id.AuthTime = time.Now().Unix()
	token, err := ex.mint(tokenissuer.Refresh, id, refreshFor(ex.caller))
	return token.Raw, err
}

func (ex *exchange) mint(use tokenissuer.Use, id tokenissuer.Identity, lifetime time.Duration) (tokenissuer.Token, *apiError) {
	token, err := ex.handler.issuer.Mint(ex.r.Context(), tokenissuer.MintRequest{
		Issuer: ex.origin.issuer, Identity: id, Lifetime: lifetime, Use: use,
	})
	if err != nil {
		return token, ex.handler.unavailable("issue a token", err)
	}
	return token, nil
}
