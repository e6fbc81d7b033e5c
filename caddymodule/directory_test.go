package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func init() { caddy.RegisterModule(new(elsewhere)) }

// elsewhere is a directory that is not in the configuration: it knows whoever
// gives a password for "elsewhere", and fails as it is told to.
type elsewhere struct{}

var (
	elsewhereFails, elsewhereAsked atomic.Int32
	elsewhereFriendly              atomic.Bool  // of the last login
	elsewhereHeard                 atomic.Value // the name and the password in it
)

func (*elsewhere) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.dependency_proxy.directory.elsewhere", New: func() caddy.Module { return new(elsewhere) }}
}

func (*elsewhere) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return parse.End(d)
}

func (e *elsewhere) Authenticate(ctx context.Context, login directory.Login) (directory.Account, error) {
	elsewhereFriendly.Store(login.Friendly)
	elsewhereHeard.Store(login.Name + " " + login.Password)
	account, err := e.Lookup(ctx, login.Name, "")
	if err == nil && login.Password != passwordOf("elsewhere") {
		err = directory.ErrWrongPassword
	}
	return account, err
}

func (e *elsewhere) Feign(ctx context.Context, login directory.Login) error {
	if _, err := e.Authenticate(ctx, login.Unknown()); err != nil && !directory.IsRefusal(err) {
		return err
	}
	return nil
}

func (*elsewhere) Lookup(ctx context.Context, name, _ string) (directory.Account, error) {
	elsewhereAsked.Add(1)
	switch elsewhereFails.Load() {
	case 1:
		return directory.Account{}, errors.New("the directory is away")
	case 2: // and does not even say so
		for elsewhereFails.Load() == 2 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		if ctx.Err() != nil {
			return directory.Account{}, ctx.Err()
		}
	}
	if strings.HasPrefix(name, "nobody") {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	return directory.Account{Name: name, Version: "1"}, nil
}

// TestDirectoryAway: a directory that cannot answer lets nobody in, tokens of
// before included, and says so rather than that the password is wrong.
func TestDirectoryAway(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := start(t, "directory elsewhere", private("acme", "zoe"), visible("open", directory.Public), hub(up), "token {\n refresh_tokens on\n}")
	s.secret(passwordOf("elsewhere"))
	zoe := func(r *http.Request) { r.SetBasicAuth("zoe", passwordOf("elsewhere")) }
	path := manifestPath("acme", "alpine", "3.20")
	tokens := s.get(auth+"&offline_token=true", zoe).expect(t, http.StatusOK, "").tokens()
	token := tokens.Token
	s.get(path, bearer(token)).expect(t, http.StatusOK, "")

	elsewhereFails.Store(1)
	defer elsewhereFails.Store(0)
	for _, a := range []answer{
		s.get(auth, zoe), s.get("/jwt/auth", form(loginForm("zoe", passwordOf("elsewhere")))), s.get("/v2/", zoe),
		s.get("/jwt/auth", form(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens.RefreshToken}})),
		s.get("/v2/", bearer(token)), s.get(path, bearer(token)), s.get(path, zoe), s.get(manifestPath("open", "alpine", "3.20"), bearer(token)),
	} {
		a.expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").has(t, "Retry-After", "10").has(t, "WWW-Authenticate", "")
		if _, message := a.problem(); strings.Contains(message, "away") {
			t.Errorf("the client is told %q", message)
		}
	}
	if !strings.Contains(s.logs(), "the directory is away") {
		t.Error("the log does not tell")
	}
	// Who is nobody needs no directory.
	s.get(manifestPath("open", "alpine", "3.20"), bearer(s.get(auth).tokens().Token)).expect(t, http.StatusOK, "")
	elsewhereFails.Store(0)
	s.get(path, bearer(token)).expect(t, http.StatusOK, "")
}

// TestDirectories: they are asked in order, and the first that knows an account
// decides.
func TestDirectories(t *testing.T) {
	s := start(t, users("alice"), "directory elsewhere", private("acme", "alice", "elsewhere:zoe"))
	s.secret(passwordOf("elsewhere"))
	login := func(name, password string, status int, asked int32) {
		t.Helper()
		elsewhereAsked.Store(0)
		a := s.get("/jwt/auth", form(loginForm(name, password)))
		if a.StatusCode != status || elsewhereAsked.Load() != asked {
			t.Errorf("%s: %d, and the second directory was asked %d times", name, a.StatusCode, elsewhereAsked.Load())
		}
	}
	login("alice", passwordOf("alice"), 200, 0)
	login("alice", passwordOf("elsewhere"), 401, 1) // nobody is asked about there, not another alice
	if heard := elsewhereHeard.Load().(string); !strings.HasPrefix(heard, "nobody-") || strings.Contains(heard, passwordOf("elsewhere")) {
		t.Errorf("the second directory has heard of %q", heard)
	}
	login("zoe", passwordOf("elsewhere"), 200, 1)
	login("zoe", "wrong", 401, 1)
	login("nobody", passwordOf("elsewhere"), 401, 1)
	elsewhereFails.Store(1)
	defer elsewhereFails.Store(0)
	login("alice", passwordOf("alice"), 200, 0)
	login("zoe", passwordOf("elsewhere"), 503, 1)
}

// TestKeysAway: without a place for its keys the token service gives no tokens,
// and a login that needs none goes on.
func TestKeysAway(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := newSite(t)
	keys := filepath.Join(s.dir, "storage", filepath.Dir(keyPrefix))
	if err := os.MkdirAll(filepath.Dir(keys), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keys, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.load(users("alice"), private("acme", "alice"), hub(up))
	s.get(auth, as("alice")).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").has(t, "Retry-After", "10").has(t, "Cache-Control", "no-store")
	s.get(manifestPath("acme", "alpine", "3.20"), as("alice")).expect(t, http.StatusOK, "")
	if err := os.Remove(keys); err != nil {
		t.Fatal(err)
	}
	eventually(t, "tokens are given again", func() bool { return s.get(auth, as("alice")).StatusCode == http.StatusOK })
}
