package registrytest

import (
	"crypto/rand"
	"net/http"
	"strings"
	"sync"
	"time"
)

// tokens is the state of the token service.
type tokens struct {
	mu     sync.Mutex
	life   time.Duration // 0 for the default
	issued map[string]issued
	pass   string // replaces that of the options, unless it is empty
}

type issued struct {
	repo    string
	expires time.Time
}

// DefaultTokenLife is the shortest lifetime that the token specification permits.
const defaultTokenLife = time.Minute

// SetTokenLife sets the lifetime of the tokens that are issued from now on.
func (r *Registry) SetTokenLife(life time.Duration) {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	r.tokens.life = life
}

// SetPassword replaces the password of the login that the registry accepts.
func (r *Registry) SetPassword(pass string) {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	r.tokens.pass = pass
}

// accepts reports whether a login is that of the registry.
func (r *Registry) accepts(user, pass string) bool {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	want := r.options.pass
	if r.tokens.pass != "" {
		want = r.tokens.pass
	}
	return user == r.options.user && pass == want
}

// RevokeTokens invalidates all tokens that were issued.
func (r *Registry) RevokeTokens() {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	clear(r.tokens.issued)
}

// serveToken handles requests to the token service. Like Docker Hub's, it checks
// the login, but not whether the repository exists. Without a scope, it issues a
// token for no repository.
func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request) {
	switch {
	case r.options.auth != "bearer", req.Method != http.MethodGet && (req.Method != http.MethodPost || !r.options.oauth):
		http.NotFound(w, req)
		return
	case req.Method == http.MethodGet && r.options.getStatus != 0:
		fail(w, r.options.getStatus, "UNSUPPORTED")
		return
	case !r.knowsLogin(req):
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	scope := req.FormValue("scope")
	repo, found := strings.CutPrefix(scope, "repository:")
	repo, pull := strings.CutSuffix(repo, ":pull")
	if scope != "" && (!found || !pull) || req.FormValue("service") != "registrytest" {
		fail(w, http.StatusBadRequest, "UNSUPPORTED")
		return
	}
	value := "token-" + rand.Text()
	r.tokens.mu.Lock()
	life := r.tokens.life
	if life == 0 {
		life = defaultTokenLife
	}
	r.tokens.issued[value] = issued{repo, time.Now().Add(life)}
	r.tokens.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	name := "token"
	if req.Method == http.MethodPost {
		name = "access_token"
	}
	_, _ = w.Write(encode(map[string]any{name: value, "expires_in": int(life.Seconds())}))
}

// knowsLogin reports whether a request to the token service has the right login, or
// needs none.
func (r *Registry) knowsLogin(req *http.Request) bool {
	user, pass, sent := req.BasicAuth()
	if req.Method == http.MethodPost {
		if req.PostFormValue("client_id") == "" || sent {
			return false
		}
		switch req.PostFormValue("grant_type") {
		case "refresh_token":
			return r.accepts(r.options.user, req.PostFormValue("refresh_token"))
		case "password":
			user, pass = req.PostFormValue("username"), req.PostFormValue("password")
		default:
			return false
		}
		sent = true
	}
	return r.accepts(user, pass) || !sent && r.options.user == ""
}

// authorized reports whether a request may access a repository.
func (r *Registry) authorized(repo string, req *http.Request) bool {
	switch r.options.auth {
	case "basic":
		user, pass, _ := req.BasicAuth()
		return r.accepts(user, pass)
	case "bearer":
		value, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		r.tokens.mu.Lock()
		defer r.tokens.mu.Unlock()
		token, found := r.tokens.issued[value]
		return found && time.Now().Before(token.expires) && (repo == "" || r.options.scopePrefix+repo == token.repo)
	}
	return true
}

// challenge sends a 401 with a challenge.
func (r *Registry) challenge(w http.ResponseWriter, _ *http.Request, what target) {
	if r.options.hidden != 0 && what.kind != OpPing {
		fail(w, r.options.hidden, "NAME_UNKNOWN")
		return
	}
	value := `Basic realm="registrytest"`
	if r.options.auth == "bearer" {
		realm := r.options.realm
		if realm == "" {
			realm = r.URL() + "/token"
		}
		value = `Bearer realm="` + realm + `",service="registrytest"`
		if what.repo != "" {
			value += `,scope="repository:` + r.options.scopePrefix + what.repo + `:pull"`
		}
	}
	w.Header().Set("WWW-Authenticate", value)
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
}
