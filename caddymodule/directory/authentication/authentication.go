package authentication

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/static"
	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

func init() { caddy.RegisterModule(new(Directory)) }

// Directory lets an authentication provider of Caddy's check
// logins. The provider is shown the request with the login as its Basic
// credentials and without a body; what it writes in answer goes nowhere.
//
// A provider cannot tell an unknown account from a wrong password, so whoever
// it does not know is asked of the directories after this one. An error of the
// provider's denies.
//
// Nor can it be asked about an account without a login. What it says at the
// login holds until the token ends that is given for it, and with a refresh
// token until MaxAge after the login: what the provider takes back has effect
// no sooner, but for a change of its configuration here, which ends all tokens
// that were given for its logins. A directory that is to take back at once is one that is asked at
// each pull, or `blocked`.
type Directory struct {
	// Name names the directory where its accounts are listed, as in NAME:alice. The
	// default is authentication.
	Name string `json:"name,omitempty"`

	// Provider checks the logins. The id of the user that it returns is the
	// account's name.
	ProviderRaw json.RawMessage `json:"provider,omitempty" caddy:"namespace=http.authentication.providers inline_key=type"`

	// Groups is the key of the user's metadata that holds the groups of which
	// the account is a member, separated by commas or white space. What is not
	// the path of a group is left out. None by default.
	Groups string `json:"groups,omitempty"`

	// MaxAge is how long after a login its tokens are good at most, refresh
	// tokens included: 12h by default, at least 1m.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	kind     string // of the provider
	source   string // names the provider as it is configured, in facts
	provider caddyauth.Authenticator
	hashes   bool // the provider takes a core for a while
	maxLen   int  // of a password in bytes; 0 for any
}

// providerFacts are what a provider has said at a login.
type providerFacts struct {
	At       int64    `json:"at"` // seconds since 1970
	Groups   []string `json:"groups,omitempty"`
	Provider string   `json:"provider"`
}

const defaultProviderMaxAge = 12 * time.Hour

// CaddyModule returns the Caddy module information.
func (*Directory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.dependency_proxy.directory.authentication",
		New: func() caddy.Module { return new(Directory) },
	}
}

// Provision loads the provider.
func (a *Directory) Provision(ctx caddy.Context) error {
	if err := a.check(); err != nil {
		return err
	}
	if a.MaxAge == 0 {
		a.MaxAge = caddy.Duration(defaultProviderMaxAge)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", a.ProviderRaw, a.Groups)) // which loading takes away
	mod, err := ctx.LoadModule(a, "ProviderRaw")
	if err != nil {
		return err
	}
	a.kind = mod.(caddy.Module).CaddyModule().ID.Name()
	a.source = a.kind + " " + base64.RawURLEncoding.EncodeToString(sum[:9])
	var ok bool
	if a.provider, ok = mod.(caddyauth.Authenticator); !ok {
		return fmt.Errorf("the authentication provider %T authenticates nobody", mod)
	}
	if basic, ok := mod.(*caddyauth.HTTPBasicAuth); ok {
		a.hashes = true
		// Right passwords are remembered here. Its cache has wrong ones too: one
		// that was tried with some name that it does not know takes no time with
		// the next such name, and its time with one that it knows.
		basic.HashCache = nil
		if _, ok := basic.Hash.(*caddyauth.BcryptHash); ok {
			a.maxLen = password.BcryptLen
		}
		return checkBasicHashes(basic)
	}
	return nil
}

// checkBasicHashes refuses accounts whose hashes take too long to be compared.
func checkBasicHashes(basic *caddyauth.HTTPBasicAuth) error {
	for name, account := range basic.Accounts {
		hash := account.Password
		if !strings.HasPrefix(hash, "$") {
			plain, err := base64.StdEncoding.DecodeString(hash)
			if err != nil {
				return fmt.Errorf("http_basic: user %s: the password hash is not base64", name)
			}
			hash = string(plain)
		}
		if _, _, err := static.Comparer(hash); err != nil && !errors.Is(err, static.ErrUnknownHash) {
			return fmt.Errorf("http_basic: user %s: %w", name, err)
		}
	}
	return nil
}

// Authenticate implements [Directory].
func (a *Directory) Authenticate(ctx context.Context, login directory.Login) (directory.Account, error) {
	if strings.Contains(login.Name, ":") {
		return directory.Account{}, directory.ErrUnknownAccount // Basic credentials would end the name there
	}
	if a.maxLen > 0 && len(login.Password) > a.maxLen {
		return directory.Account{}, directory.ErrUnknownAccount // nobody has it, which tells of no account
	}
	account, err := a.show(ctx, login)
	if !a.hashes && directory.IsRefusal(err) {
		err = fmt.Errorf("%w: %w", err, directory.ErrThisRequest) // it sees all of the request
	}
	return account, err
}

// Feign implements [Costly].
func (a *Directory) Feign(ctx context.Context, login directory.Login) error {
	nobody := login.Unknown()
	if strings.Contains(login.Name, ":") || a.maxLen > 0 && len(login.Password) > a.maxLen {
		return nil // which is not asked about
	}
	if _, err := a.Authenticate(ctx, nobody); err != nil && !directory.IsRefusal(err) {
		return err
	}
	return nil
}

// show shows the provider a login.
func (a *Directory) show(ctx context.Context, login directory.Login) (directory.Account, error) {
	request := login.Request.Clone(ctx)
	request.Body, request.ContentLength = http.NoBody, 0
	request.Form, request.PostForm = nil, nil
	request.SetBasicAuth(login.Name, login.Password)
	user, ok, err := a.ask(request, login)
	switch {
	case err != nil:
		return directory.Account{}, fmt.Errorf("the provider %s: %w", a.kind, err)
	case !ok:
		return directory.Account{}, directory.ErrUnknownAccount
	}
	facts, err := json.Marshal(providerFacts{At: time.Now().Unix(), Groups: a.groupsOf(user), Provider: a.source})
	if err != nil {
		return directory.Account{}, err
	}
	return a.Lookup(ctx, user.ID, string(facts))
}

func (a *Directory) ask(request *http.Request, login directory.Login) (user caddyauth.User, ok bool, err error) {
	if !a.hashes {
		return a.provider.Authenticate(make(nowhere), request)
	}
	ok, err = password.Once(request.Context(), login, a.source+"\x00"+login.Name, func() (bool, error) {
		_, ok, err := a.provider.Authenticate(make(nowhere), request)
		return ok, err
	})
	return caddyauth.User{ID: login.Name}, ok, err
}

// Lookup implements [Directory]. All it knows of an account are the facts, so
// it knows none by its name alone.
func (a *Directory) Lookup(_ context.Context, name, facts string) (directory.Account, error) {
	if len(facts) > directory.MaxFacts {
		return directory.Account{}, fmt.Errorf("what the provider %s says of the account is longer than %d bytes", a.kind, directory.MaxFacts)
	}
	if name == "" || len(name) > directory.MaxName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return directory.Account{}, fmt.Errorf("%w: the name cannot be one", directory.ErrUnknownAccount)
	}
	var said providerFacts
	if err := json.Unmarshal([]byte(facts), &said); err != nil || said.Provider != a.source {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	if age := time.Since(time.Unix(said.At, 0)); age > time.Duration(a.MaxAge) || age < -tokenissuer.Leeway {
		return directory.Account{}, fmt.Errorf("%w: the login was %v ago, and max_age is %v", directory.ErrUnknownAccount, age.Round(time.Second), time.Duration(a.MaxAge))
	}
	account := directory.Account{Name: name, Facts: facts, Roles: make(map[string]directory.Role, len(said.Groups))}
	for _, group := range said.Groups {
		account.Roles[group] = directory.Member
	}
	return account, nil
}

// Source implements [Sourced]: the accounts are those of the provider as
// it is configured.
func (a *Directory) Source() string { return a.source }

// NamesGroups implements Naming.
func (a *Directory) NamesGroups() bool { return a.Groups != "" }

func (a *Directory) groupsOf(user caddyauth.User) []string {
	if a.Groups == "" {
		return nil
	}
	groups := strings.FieldsFunc(user.Metadata[a.Groups], func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
	groups = slices.DeleteFunc(groups, func(group string) bool { return !reference.ValidRepository(group) })
	slices.Sort(groups)
	return slices.Compact(groups)
}

func (a *Directory) check() error {
	if a.ProviderRaw == nil {
		return errors.New("directory authentication: there is no provider; write `provider MODULE ...`")
	}
	if age := time.Duration(a.MaxAge); age != 0 && age < time.Minute {
		return fmt.Errorf("max_age %v: write a duration of at least 1m", age)
	}
	return nil
}

// nowhere is a response that nobody gets: providers write challenges of their
// own, or whole redirects.
type nowhere http.Header

// Header implements [http.ResponseWriter].
func (n nowhere) Header() http.Header { return http.Header(n) }

// Write implements [http.ResponseWriter].
func (n nowhere) Write(p []byte) (int, error) { return len(p), nil }

// WriteHeader implements [http.ResponseWriter].
func (n nowhere) WriteHeader(int) {}

// Interface guards
var (
	_ caddy.Provisioner = (*Directory)(nil)
	_ directory.Sourced = (*Directory)(nil)
	_ directory.Costly  = (*Directory)(nil)
)
