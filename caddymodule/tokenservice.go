package caddymodule

import (
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// grantedScope words which of the scopes asked for this service has: pulling
// from what is its own. Clients ask for others in the same breath.
func grantedScope(asked []string) string {
	var granted []string
	for _, scope := range tokenissuer.ParseScopes(asked) {
		if scope.Type == "repository" && strings.Contains(scope.Name, infix) && slices.Contains(scope.Actions, "pull") {
			scope.Actions = []string{"pull"}
			granted = append(granted, scope.String())
		}
	}
	return strings.Join(granted, " ")
}

// maxForm is how much of a token request's body is read, in bytes.
const maxForm = 64 << 10

func newIssuer(storage certmagic.Storage, settings Token) *tokenissuer.Issuer {
	return tokenissuer.New(tokenissuer.Config{
		Storage:       storage,
		Prefix:        keyPrefix,
		Audience:      service,
		Rotate:        settings.rotate(),
		TokenLifetime: refreshLifetime,
		Hooks: tokenissuer.Hooks{
			BadKey: func(name string, err error) {
				processLogger().Error("signing key is unusable", zap.String("key", name), zap.Error(err))
			},
			StorageError: func(err error) {
				processLogger().Warn("signing keys cannot be listed; the known ones serve on", zap.Error(err))
			},
			KeyCreated: func(kid string) { processLogger().Info("signing key made", zap.String("kid", kid)) },
		},
	})
}

// serveTokens is the token service: the Docker registry's token protocol by
// GET, its OAuth2 form by POST, and the public keys.
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

// serveQuery answers the Docker registry's form of a token request.
func (ex *exchange) serveQuery() (err *apiError) {
	query := ex.r.URL.Query()
	if err := checkService(query); err != nil {
		return err
	}
	if name, password, ok := ex.r.BasicAuth(); ok {
		ex.caller, err = ex.basic(name, password)
	} else {
		ex.caller, err = ex.anonymous()
	}
	if err != nil {
		return err
	}
	offline, _ := strconv.ParseBool(query.Get("offline_token"))
	return ex.sendToken(query["scope"], offline, "")
}

func (ex *exchange) serveKeys() *apiError {
	keys, err := ex.h.issuer.JWKS(ex.r.Context())
	if err != nil {
		return ex.h.cannotTell("read the signing keys", err)
	}
	ex.sendJSON(http.StatusOK, keys, "application/jwk-set+json")
	return nil
}

// serveGrant answers the OAuth2 form of a token request.
func (ex *exchange) serveGrant() *apiError {
	mediaType, _, err := mime.ParseMediaType(ex.r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/x-www-form-urlencoded" {
		return refuse(badRequest, "the token request is not a form")
	}
	ex.r.Body = http.MaxBytesReader(ex.w, ex.r.Body, maxForm)
	if err := ex.r.ParseForm(); err != nil {
		return refuse(badRequest, "the token request's form cannot be read")
	}
	form := ex.r.PostForm
	if err := checkService(form); err != nil {
		return err
	}
	offline := form.Get("access_type") == "offline"
	var refusal *apiError
	switch grant := form.Get("grant_type"); grant {
	case "password":
		ex.caller, refusal = ex.login(form.Get("username"), form.Get("password"))
	case "refresh_token":
		ex.caller, refusal = ex.refresh(form.Get("refresh_token"))
	default:
		refusal = refuse(badRequest, "the grant type is neither password nor refresh_token")
	}
	if refusal != nil {
		return refusal
	}
	return ex.sendToken(form["scope"], offline, "Bearer")
}

// checkService refuses a request that was meant for another registry.
func checkService(values url.Values) *apiError {
	if s := values.Get("service"); s != "" && s != service {
		return refuse(badRequest, "this token service is for the service %s", service)
	}
	return nil
}

// anonymous is who asks without a login, if there is anything for them.
func (ex *exchange) anonymous() (access.Caller, *apiError) {
	if ex.r.Header.Get("Authorization") != "" || !ex.h.access.AllowsAnonymous() {
		return access.Caller{}, refuse(unauthorized, "log in with: docker login %s", ex.origin.registry)
	}
	return access.Caller{Anonymous: true}, nil
}

// tokenAnswer is what clients expect (distribution, "Token Authentication
// Specification" and "OAuth2"). ExpiresIn must be an integer.
type tokenAnswer struct {
	Token        string `json:"token"`
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type,omitempty"`
	ExpiresIn    int    `json:"expires_in"`
	IssuedAt     string `json:"issued_at"`
	RefreshToken string `json:"refresh_token,omitempty"`
	Scope        string `json:"scope,omitempty"`
}

// sendToken issues a token that says who the caller is. Scopes are not judged:
// what the caller may read is decided when it reads.
func (ex *exchange) sendToken(scopes []string, offline bool, tokenType string) *apiError {
	lifetime := ex.h.Token.lifetime()
	if refresh := ex.caller.Refresh; refresh.Raw != "" {
		// What is bought with a refresh token does not outlive it.
		lifetime = max(tokenissuer.MinLifetime, min(lifetime, time.Until(refresh.Ends)).Truncate(time.Second))
	}
	token, err := ex.mint(tokenissuer.Access, ex.caller.Identity(), lifetime)
	if err != nil {
		return err
	}
	answer := tokenAnswer{
		Token:       token.Raw,
		AccessToken: token.Raw,
		ExpiresIn:   int(lifetime / time.Second),
		IssuedAt:    token.IssuedAt.UTC().Format(time.RFC3339),
		TokenType:   tokenType,
		Scope:       grantedScope(scopes),
	}
	if offline && ex.h.Token.RefreshTokens && !ex.caller.Anonymous {
		if answer.RefreshToken, err = ex.refreshToken(); err != nil {
			return err
		}
	}
	body, jerr := json.Marshal(answer)
	if jerr != nil {
		panic(jerr) // strings and an integer always marshal
	}
	ex.sendJSON(http.StatusOK, body, "application/json")
	return nil
}

// refreshToken returns the caller's refresh token: a new one after a login, and
// after a refresh the same one, so that none outlives the login by more than it
// should.
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
	token, err := ex.h.issuer.Mint(ex.r.Context(), tokenissuer.MintRequest{
		Issuer: ex.origin.issuer(), Identity: id, Lifetime: lifetime, Use: use,
	})
	if err != nil {
		return token, ex.h.cannotTell("issue a token", err)
	}
	return token, nil
}

func (ex *exchange) sendJSON(status int, body []byte, mediaType string) {
	h := ex.w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	ex.w.WriteHeader(status)
	if ex.r.Method != http.MethodHead {
		_, _ = ex.w.Write(body)
	}
}
