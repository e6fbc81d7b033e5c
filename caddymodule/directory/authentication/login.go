package authentication

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
)

// facts are what the provider said at a login.
type facts struct {
	At       int64    `json:"at"` // in Unix seconds
	Groups   []string `json:"groups,omitempty"`
	Provider string   `json:"provider"`
}

// Authenticate implements [directory.Directory].
func (a *Directory) Authenticate(ctx context.Context, login directory.Login) (directory.Account, error) {
	if !a.canBe(login) {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	account, err := a.show(ctx, login)
	if !a.hashes && directory.IsRefusal(err) {
		err = fmt.Errorf("%w: %w", err, directory.ErrThisRequest) // the provider sees the whole request
	}
	return account, err
}

// Feign implements [directory.Costly].
func (a *Directory) Feign(ctx context.Context, login directory.Login) error {
	if !a.canBe(login) {
		return nil
	}
	if _, err := a.Authenticate(ctx, login.Unknown()); err != nil && !directory.IsRefusal(err) {
		return err
	}
	return nil
}

// canBe reports whether the provider is asked about a login. A colon would end the name
// in Basic credentials. A password that bcrypt would cut off matches no account.
func (a *Directory) canBe(login directory.Login) bool {
	return !strings.Contains(login.Name, ":") && (a.maxLen == 0 || len(login.Password) <= a.maxLen)
}

// show shows a login to the provider.
func (a *Directory) show(ctx context.Context, login directory.Login) (directory.Account, error) {
	request := login.Request.Clone(ctx)
	request.Body, request.ContentLength = http.NoBody, 0
	request.Form, request.PostForm = nil, nil
	request.SetBasicAuth(login.Name, login.Password)
	user, ok, err := a.ask(request, login)
	switch {
	case err != nil:
		return directory.Account{}, fmt.Errorf("provider %s: %w", a.kind, err)
	case !ok:
		return directory.Account{}, directory.ErrUnknownAccount
	}
	said, err := json.Marshal(facts{At: time.Now().Unix(), Groups: a.groupsOf(user), Provider: a.source})
	if err != nil {
		return directory.Account{}, err
	}
	return a.Lookup(ctx, user.ID, string(said))
}

func (a *Directory) ask(request *http.Request, login directory.Login) (user caddyauth.User, ok bool, err error) {
	if !a.hashes {
		return a.provider.Authenticate(make(discard), request)
	}
	ok, err = password.Once(request.Context(), login, a.source+"\x00"+login.Name, func() (bool, error) {
		_, ok, err := a.provider.Authenticate(make(discard), request)
		return ok, err
	})
	return caddyauth.User{ID: login.Name}, ok, err
}

// groupsOf returns the groups that the metadata of a user name.
func (a *Directory) groupsOf(user caddyauth.User) []string {
	if a.Groups == "" {
		return nil
	}
	groups := strings.FieldsFunc(user.Metadata[a.Groups], func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
	groups = slices.DeleteFunc(groups, func(group string) bool { return !reference.ValidRepository(group) })
	slices.Sort(groups)
	return slices.Compact(groups)
}

// Lookup implements [directory.Directory]. An account is known by its facts only, so
// without them it is unknown.
func (a *Directory) Lookup(_ context.Context, name, said string) (directory.Account, error) {
	if err := directory.CheckFacts(said); err != nil {
		return directory.Account{}, fmt.Errorf("provider %s: %w", a.kind, err)
	}
	if err := directory.CheckAccountName(name); err != nil {
		return directory.Account{}, fmt.Errorf("%w: %w", directory.ErrUnknownAccount, err)
	}
	var f facts
	if err := json.Unmarshal([]byte(said), &f); err != nil || f.Provider != a.source {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	if err := directory.CheckAge("the login", time.Unix(f.At, 0), "max_age", time.Duration(a.MaxAge), time.Now()); err != nil {
		return directory.Account{}, fmt.Errorf("%w: %w", directory.ErrUnknownAccount, err)
	}
	account := directory.Account{Name: name, Facts: said, Roles: make(map[string]directory.Role, len(f.Groups))}
	for _, group := range f.Groups {
		account.Roles[group] = directory.Member
	}
	return account, nil
}

// discard is a response writer that discards everything: providers write challenges
// and redirects.
type discard http.Header

// Header implements [http.ResponseWriter].
func (d discard) Header() http.Header { return http.Header(d) }

// Write implements [http.ResponseWriter].
func (discard) Write(p []byte) (int, error) { return len(p), nil }

// WriteHeader implements [http.ResponseWriter].
func (discard) WriteHeader(int) {}
