package authentication

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/oidctest"
)

// TestDirectoryLookupFacts: facts are valid until max_age, and facts that the provider
// cannot have given are refused.
func TestDirectoryLookupFacts(t *testing.T) {
	a := &Directory{source: "scribbler", MaxAge: caddy.Duration(time.Hour)}
	facts := func(age time.Duration) string {
		return fmt.Sprintf(`{"at":%d,"groups":["acme"],"provider":"scribbler"}`, oidctest.Ago(age))
	}
	account, err := a.Lookup(t.Context(), "zoe", facts(59*time.Minute))
	if err != nil || account.Roles["acme"] != directory.Member || account.Name != "zoe" {
		t.Errorf("got %+v, %v, want zoe, a member of acme", account, err)
	}
	for name, facts := range map[string]string{
		"old": facts(61 * time.Minute), "future": facts(-2 * time.Minute), "": facts(0), "a\nb": facts(0),
		"none": "", "null": "null", "list": "[]", "cut": facts(0)[:20], "other": strings.Replace(facts(0), "scribbler", "http_basic", 1),
		strings.Repeat("x", directory.MaxName+1): facts(0), "kind": strings.Replace(facts(0), `["acme"]`, `"acme"`, 1),
	} {
		if account, err := a.Lookup(t.Context(), name, facts); !errors.Is(err, directory.ErrUnknownAccount) {
			t.Errorf("%q: got %+v, %v, want %v", name, account, err, directory.ErrUnknownAccount)
		}
	}
}

// FuzzDirectoryLookup: any facts can be read.
func FuzzDirectoryLookup(f *testing.F) {
	a := &Directory{source: "scribbler", MaxAge: caddy.Duration(time.Hour)}
	f.Add("zoe", `{"at":1800000000,"groups":["acme"],"provider":"scribbler"}`)
	f.Fuzz(func(t *testing.T, name, facts string) {
		account, err := a.Lookup(t.Context(), name, facts)
		if err == nil && (account.Name != name || name == "" || account.Admin) {
			t.Errorf("%q %q: got %+v, want an account of that name", name, facts, account)
		}
	})
}

// basicDirectory is a directory of one account of Caddy's own provider.
func basicDirectory(t *testing.T, name, hash, algorithm string) (*Directory, error) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	a := &Directory{ProviderRaw: fmt.Appendf(nil, `{"type":"http_basic","hash":{"algorithm":%q},"hash_cache":{},"accounts":[{"username":%q,"password":%q}]}`, algorithm, name, hash)}
	return a, a.Provision(ctx)
}

// argon2id returns a cheap hash.
func argon2id(password string) string {
	salt, encode := []byte("sixteen bytes..."), base64.RawStdEncoding.EncodeToString
	return "$argon2id$v=19$m=8,t=1,p=1$" + encode(salt) + "$" + encode(argon2.IDKey([]byte(password), salt, 1, 8, 1, 32))
}

func loginAs(name, password string) directory.Login {
	return directory.Login{Name: name, Password: password, Request: httptest.NewRequest(http.MethodGet, "/", nil)}
}

// TestHTTPBasicAccounts: a wrong password and a wrong name are both unknown, so that the
// next directory is asked, and an account that is no longer configured is unknown too.
func TestHTTPBasicAccounts(t *testing.T) {
	right := rand.Text()
	with, err := basicDirectory(t, "bob", argon2id(right), "argon2id")
	without, err2 := basicDirectory(t, "dave", argon2id(right), "argon2id")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	account, err := with.Authenticate(t.Context(), loginAs("bob", right))
	if err != nil || account.Name != "bob" {
		t.Fatalf("got %q, %v, want bob", account.Name, err)
	}
	if now, err := with.Lookup(t.Context(), "bob", account.Facts); err != nil || now.Name != "bob" {
		t.Errorf("got %q, %v, want bob", now.Name, err)
	}
	if _, err := without.Lookup(t.Context(), "bob", account.Facts); !errors.Is(err, directory.ErrUnknownAccount) {
		t.Errorf("without bob: got %v, want %v", err, directory.ErrUnknownAccount)
	}
	for _, login := range []directory.Login{loginAs("bob", "wrong"), loginAs("nobody", right), loginAs("bob:x", right)} {
		if _, err := with.Authenticate(t.Context(), login); !errors.Is(err, directory.ErrUnknownAccount) {
			t.Errorf("%s: got %v, want %v", login.Name, err, directory.ErrUnknownAccount)
		}
	}
}

// TestHTTPBasicLongPassword: bcrypt would not see what is behind 72 bytes.
func TestHTTPBasicLongPassword(t *testing.T) {
	long := strings.Repeat("a-long-password-", 6)[:72]
	hash, err := bcrypt.GenerateFromPassword([]byte(long), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	a, err := basicDirectory(t, "carol", string(hash), "bcrypt")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Authenticate(t.Context(), loginAs("carol", long)); err != nil {
		t.Errorf("72 bytes: got %v, want no error", err)
	}
	if _, err := a.Authenticate(t.Context(), loginAs("carol", long+"x")); !errors.Is(err, directory.ErrUnknownAccount) {
		t.Errorf("73 bytes: got %v, want %v", err, directory.ErrUnknownAccount)
	}
}

// TestHTTPBasicCosts: a hash that takes too long to compare is rejected, however it is
// written.
func TestHTTPBasicCosts(t *testing.T) {
	cheap, err := bcrypt.GenerateFromPassword([]byte("x"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	costly := strings.Replace(string(cheap), "$04$", "$31$", 1)
	for name, row := range map[string]struct{ hash, want string }{
		"plain":       {costly, "http_basic: user bob: the bcrypt hash has cost 31"},
		"base64":      {base64.StdEncoding.EncodeToString([]byte(costly)), "http_basic: user bob: the bcrypt hash has cost 31"},
		"placeholder": {"{env.COSTLY_HASH}", "http_basic: user bob: the bcrypt hash has cost 31"},
		"cheap":       {string(cheap), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("COSTLY_HASH", costly)
			_, err := basicDirectory(t, "bob", row.hash, "bcrypt")
			if (err == nil) != (row.want == "") || err != nil && (!strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), costly[8:])) {
				t.Errorf("got %v, want %q and no hash", err, row.want)
			}
		})
	}
}

// TestHTTPBasicHashes: a wrong password costs a hash each time, even if it was tried
// before with another name. A right one costs one hash, and is remembered.
func TestHTTPBasicHashes(t *testing.T) {
	bobs := rand.Text()
	a, err := basicDirectory(t, "bob", argon2id(bobs), "argon2id")
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int32
	basic := a.provider.(*caddyauth.HTTPBasicAuth)
	basic.Hash = counting{basic.Hash, &n}
	for _, row := range []struct {
		name, password string
		hashes         int32
	}{{"bob", "x", 1}, {"nobody", "x", 1}, {"stranger", "x", 1}, {"bob", "x", 1}, {"nobody", "x", 1}, {"bob", bobs, 1}, {"bob", bobs, 0}, {"nobody", bobs, 1}} {
		n.Store(0)
		account, err := a.Authenticate(t.Context(), loginAs(row.name, row.password))
		if right := row.name == "bob" && row.password == bobs; n.Load() != row.hashes || right != (err == nil) || right != (account.Name == "bob") {
			t.Errorf("%s with %s: got %v after %d hashes, want %d", row.name, row.password, err, n.Load(), row.hashes)
		}
	}
}

// counting counts comparisons.
type counting struct {
	caddyauth.Comparer
	n *atomic.Int32
}

func (c counting) Compare(hash, password []byte) (bool, error) {
	c.n.Add(1)
	return c.Comparer.Compare(hash, password)
}
