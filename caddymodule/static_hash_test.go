package caddymodule

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/crypto/argon2"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/static"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
)

func init() { caddy.RegisterModule(hexHash{}) }

// hexHash is a hash module for hashes that have no prefix.
type hexHash struct{}

var hexCompared atomic.Int32

func (hexHash) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.authentication.hashes.hex", New: func() caddy.Module { return new(hexHash) }}
}

func (hexHash) Compare(hashed, plaintext []byte) (bool, error) {
	hexCompared.Add(1)
	return string(hashed) == hexOf(string(plaintext)), nil
}

// hexOf returns the hash that hexHash compares with.
func hexOf(password string) string {
	sum := sha256.Sum256([]byte(password))
	return hex.EncodeToString(sum[:])
}

// hexStatic returns a static directory with hashes of hexHash.
func hexStatic(t *testing.T, users ...*static.User) *static.Directory {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	d := &static.Directory{Users: users, HashRaw: json.RawMessage(`{"algorithm":"hex"}`)}
	if err := d.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestHashModule checks that the hash module compares hashes that are neither
// bcrypt nor argon2id, and no others.
func TestHashModule(t *testing.T) {
	s := sitetest.NewSite(t)
	file := filepath.Join(s.Dir, "users")
	secret := rand.Text() // new in each run, so that no earlier success is remembered
	s.AddSecrets(secret)
	sitetest.WriteFile(t, file, "bob:"+hexOf(secret+"bob")+"\ncarol:"+sitetest.Hash(secret+"carol")+"\n")
	s.Load("directory static {\n user alice "+hexOf(secret+"alice")+"\n users_file "+file+"\n hash hex\n}", sitetest.Visible("acme", directory.Internal))
	hexCompared.Store(0)
	for _, name := range []string{"alice", "bob", "carol"} {
		s.Get("/v2/", sitetest.Basic(name, secret+name)).Expect(t, http.StatusOK, "")
		s.Get("/v2/", sitetest.Basic(name, "wrong")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	if n := hexCompared.Load(); n != 4 {
		t.Errorf("got %d comparisons by the module, want 4", n)
	}
}

// TestUnknownNameCost checks that an unknown name costs one comparison with the
// hash of an account: the same one for each attempt, and over many names with
// each kind of hash in proportion to its accounts.
func TestUnknownNameCost(t *testing.T) {
	a := access.NewAccounts(access.Config{})
	one, two := []string(nil), []*static.User(nil)
	for i := range 40 {
		name := fmt.Sprint("user", i)
		if i%4 == 0 {
			two = append(two, &static.User{Name: name, Hash: hexOf("x")})
			continue
		}
		one = append(one, name)
	}
	h := new(slowHash)
	a.Add("static", staticWithSlowHash(t, h, one...))
	a.Add("static", hexStatic(t, two...))
	feigned := func(name string) int32 {
		before, others := hexCompared.Load(), h.n.Load()
		// Another password each time: the same login is refused without a check.
		if _, err := a.Authenticate(t.Context(), directory.Login{Name: name, Password: rand.Text()}); !errors.Is(err, directory.ErrUnknownAccount) {
			t.Fatalf("got %v, want ErrUnknownAccount", err)
		}
		n := hexCompared.Load() - before
		if all := n + h.n.Load() - others; all != 1 {
			t.Fatalf("%s: got %d comparisons, want 1", name, all)
		}
		return n
	}
	other := int32(0)
	for i := range 400 {
		name := fmt.Sprint("nobody", i)
		first := feigned(name)
		if again := feigned(name); again != first {
			t.Fatalf("%s: got %d comparisons by the module, want %d as at first", name, again, first)
		}
		other += first
	}
	if other < 50 || other > 160 {
		t.Errorf("got %d of 400 names compared with the hash of a quarter of the accounts, want about 100", other)
	}
	hexCompared.Store(0)
	for i := range 50 {
		if _, err := a.Authenticate(t.Context(), directory.Login{Name: fmt.Sprint("nobody", i), Password: fmt.Sprint(i)}); !errors.Is(err, directory.ErrUnknownAccount) {
			t.Fatal(err)
		}
	}
	if n := hexCompared.Load(); n == 0 || n == 50 {
		t.Errorf("got %d of 50 logins compared by the module, want some", n)
	}
}

// TestLongPasswords checks that a password of more than 72 bytes, which bcrypt
// would truncate, does not match a bcrypt hash, and that argon2id reads all of
// it.
func TestLongPasswords(t *testing.T) {
	long := strings.Repeat("p", 72)
	salt := []byte("sixteen bytes...")
	key := argon2.IDKey([]byte(long+"p"), salt, 1, 8, 1, 32)
	argon2id := fmt.Sprintf("$argon2id$v=19$m=8,t=1,p=1$%s$%s", base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key))
	s := sitetest.Start(t, "user alice "+sitetest.Hash(long), "user bob "+argon2id, sitetest.Private("acme", "alice", "bob"))
	s.AddSecrets(long)
	for _, row := range []struct {
		name, password string
		status         int
	}{
		{"alice", long, 200}, {"alice", long + "p", 401}, {"alice", long + strings.Repeat("x", 1000), 401}, {"alice", long[1:], 401},
		{"bob", long + "p", 200}, {"bob", long, 401}, {"bob", long + "pp", 401}, {"bob", long + "p", 200},
	} {
		if a := s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm(row.name, row.password))); a.StatusCode != row.status {
			t.Errorf("%s with %d bytes: got %d, want %d", row.name, len(row.password), a.StatusCode, row.status)
		}
	}
}

// TestHashesPerLogin checks that a wrong password costs one hash whether or not
// the account exists, and none if it is repeated within a minute, and that a
// right one costs one and none from then on.
func TestHashesPerLogin(t *testing.T) {
	anns := rand.Text()
	a := access.NewAccounts(access.Config{})
	a.Add("static", hexStatic(t, &static.User{Name: "ann", Hash: hexOf(anns)}, &static.User{Name: "ben", Hash: hexOf("ben's")}))
	long := strings.Repeat("x", 73)
	for _, row := range []struct {
		name, password string
		err            error
		hashes         int32
	}{
		{"ann", "wrong", directory.ErrWrongPassword, 1}, {"ann", "wrong", directory.ErrWrongPassword, 0}, // the refusal is remembered
		{"nobody", "wrong", directory.ErrUnknownAccount, 1}, {"nobody", "wrong", directory.ErrUnknownAccount, 0}, {"", "", directory.ErrUnknownAccount, 1},
		{"ann", long, directory.ErrWrongPassword, 1}, {"nobody", long, directory.ErrUnknownAccount, 1},
		{"ann", anns, nil, 1}, {"ann", anns, nil, 0}, {"ben", anns, directory.ErrWrongPassword, 1}, {"ann", "wrong too", directory.ErrWrongPassword, 1},
	} {
		hexCompared.Store(0)
		_, err := a.Authenticate(t.Context(), directory.Login{Name: row.name, Password: row.password})
		if !errors.Is(err, row.err) || hexCompared.Load() != row.hashes {
			t.Errorf("%s with %.10q: got %v after %d hashes, want %v after %d", row.name, row.password, err, hexCompared.Load(), row.err, row.hashes)
		}
	}
}
