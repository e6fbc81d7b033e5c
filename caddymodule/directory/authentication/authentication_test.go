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

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/oidctest"
)

// TestAuthenticationFacts: what a provider said ages, and facts that it did not
// say know nobody.
func TestAuthenticationFacts(t *testing.T) {
	a := &Directory{source: "scribbler", MaxAge: caddy.Duration(time.Hour)}
	facts := func(age time.Duration) string {
		return fmt.Sprintf(`{"at":%d,"groups":["acme"],"provider":"scribbler"}`, oidctest.Ago(age))
	}
	account, err := a.Lookup(t.Context(), "zoe", facts(59*time.Minute))
	if err != nil || account.Roles["acme"] != directory.Member || account.Name != "zoe" {
		t.Errorf("%+v, %v", account, err)
	}
	for name, facts := range map[string]string{
		"old": facts(61 * time.Minute), "future": facts(-2 * time.Minute), "": facts(0), "a\nb": facts(0),
		"none": "", "null": "null", "list": "[]", "cut": facts(0)[:20], "other": strings.Replace(facts(0), "scribbler", "http_basic", 1),
		strings.Repeat("x", directory.MaxName+1): facts(0), "kind": strings.Replace(facts(0), `["acme"]`, `"acme"`, 1),
	} {
		if account, err := a.Lookup(t.Context(), name, facts); !errors.Is(err, directory.ErrUnknownAccount) {
			t.Errorf("%q: %+v, %v", name, account, err)
		}
	}
}

// FuzzProviderFacts: whatever stands in facts, reading them ends well.
func FuzzProviderFacts(f *testing.F) {
	a := &Directory{source: "scribbler", MaxAge: caddy.Duration(time.Hour)}
	f.Add("zoe", `{"at":1800000000,"groups":["acme"],"provider":"scribbler"}`)
	f.Fuzz(func(t *testing.T, name, facts string) {
		account, err := a.Lookup(t.Context(), name, facts)
		if err == nil && (account.Name != name || name == "" || account.Admin) {
			t.Errorf("%q %q: %+v", name, facts, account)
		}
	})
}

// TestHTTPBasicHashes: a wrong password costs a hash each time, also one that was
// tried before with another name; a right one costs one, and none from then on.
func TestHTTPBasicHashes(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	bobs := rand.Text()
	salt, encode := []byte("sixteen bytes..."), base64.RawStdEncoding.EncodeToString
	hashed := "$argon2id$v=19$m=8,t=1,p=1$" + encode(salt) + "$" + encode(argon2.IDKey([]byte(bobs), salt, 1, 8, 1, 32))
	a := &Directory{ProviderRaw: fmt.Appendf(nil, `{"type":"http_basic","hash":{"algorithm":"argon2id"},"hash_cache":{},"accounts":[{"username":"bob","password":%q}]}`, hashed)}
	if err := a.Provision(ctx); err != nil {
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
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		account, err := a.Authenticate(t.Context(), directory.Login{Name: row.name, Password: row.password, Request: r})
		if right := row.name == "bob" && row.password == bobs; n.Load() != row.hashes || right != (err == nil) || right != (account.Name == "bob") {
			t.Errorf("%s with %s: %v after %d hashes", row.name, row.password, err, n.Load())
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
