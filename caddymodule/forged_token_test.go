package caddymodule

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// forger makes tokens with the key of a site, as a thief of the key could, or
// with other keys.
type forger struct {
	private         ed25519.PrivateKey
	header, payload map[string]any // of a valid token
}

// newForger returns a forger with the only key of the site and with the header
// and the payload of a valid token.
func newForger(t *testing.T, s *sitetest.Site, good string) *forger {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.Dir, "storage", keyPrefix, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("got the key files %v, error %v; want one", files, err)
	}
	content, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ D string }
	if err := json.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	seed, err := base64.RawURLEncoding.DecodeString(file.D)
	if err != nil {
		t.Fatal(err)
	}
	s.AddSecrets(file.D)
	f := &forger{private: ed25519.NewKeyFromSeed(seed)}
	for i, part := range strings.Split(good, ".")[:2] {
		text, err := base64.RawURLEncoding.DecodeString(part)
		if err == nil {
			err = json.Unmarshal(text, []*map[string]any{&f.header, &f.payload}[i])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// unsigned returns the encoded header and payload with the given changes. A nil
// value removes a member.
func (f *forger) unsigned(header, payload map[string]any) string {
	var parts []string
	for _, of := range [][2]map[string]any{{f.header, header}, {f.payload, payload}} {
		changed := maps.Clone(of[0])
		maps.Copy(changed, of[1])
		for member, value := range changed {
			if value == nil {
				delete(changed, member)
			}
		}
		content, err := json.Marshal(changed)
		if err != nil {
			panic(err)
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(content))
	}
	return strings.Join(parts, ".")
}

func signToken(text string, private ed25519.PrivateKey) string {
	return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(private, []byte(text)))
}

func (f *forger) forge(header, payload map[string]any) string {
	return signToken(f.unsigned(header, payload), f.private)
}

type jsonObject = map[string]any

// forgeries returns invalid tokens that resemble a valid one. All but the ones
// about keys and signatures are signed with the right key.
func (f *forger) forgeries(t *testing.T, good string) map[string]string {
	now := time.Now().Unix()
	public, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own := f.private.Public().(ed25519.PublicKey)
	jwk := jsonObject{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(public)}
	kid := f.header["kid"].(string)
	parts := strings.Split(good, ".")
	forged := map[string]string{
		"alg none": f.forge(jsonObject{"alg": "none"}, nil), "alg none, unsigned": f.unsigned(jsonObject{"alg": "none"}, nil) + ".",
		"alg HS256 signed as EdDSA": f.forge(jsonObject{"alg": "HS256"}, nil), "alg RS256": f.forge(jsonObject{"alg": "RS256"}, nil),
		"jwk": signToken(f.unsigned(jsonObject{"jwk": jwk}, nil), stranger), "jku": f.forge(jsonObject{"jku": "https://192.0.2.1/keys"}, nil),
		"x5c": f.forge(jsonObject{"x5c": []string{"MII="}}, nil), "x5u": f.forge(jsonObject{"x5u": "https://192.0.2.1/"}, nil),
		"crit": f.forge(jsonObject{"crit": []string{"exp"}}, nil), "typ": f.forge(jsonObject{"typ": "at+jwt"}, nil),
		"no kid": f.forge(jsonObject{"kid": nil}, nil), "kid a path": f.forge(jsonObject{"kid": "../../" + kid}, nil),
		"kid a list": f.forge(jsonObject{"kid": []string{kid}}, nil), "kid unknown": f.forge(jsonObject{"kid": strings.Repeat("A", 43)}, nil),
		"kid of another": signToken(f.unsigned(nil, nil), stranger),
		"cut":            good[:len(good)-1], "half a signature": good[:len(good)-43], "longer": good + "A", "padded": good + "==",
		"two parts": parts[0] + "." + parts[1], "four parts": good + "." + parts[2], "spaces": "  .  .  ", "empty": "",
		"signature of another": strings.Join([]string{parts[0], strings.Split(f.unsigned(nil, jsonObject{"sub": "bob", "user_id": "bob"}), ".")[1], parts[2]}, "."),
		"no exp":               f.forge(nil, jsonObject{"exp": nil}), "exp as text": f.forge(nil, jsonObject{"exp": "9999999999"}), "exp far": f.forge(nil, jsonObject{"exp": now + 100*365*86400}),
		"no nbf": f.forge(nil, jsonObject{"nbf": nil}), "not yet": f.forge(nil, jsonObject{"nbf": now + 900}), "no iat": f.forge(nil, jsonObject{"iat": nil}),
		"other iss": f.forge(nil, jsonObject{"iss": "https://other.example"}), "no iss": f.forge(nil, jsonObject{"iss": nil}),
		"other aud": f.forge(nil, jsonObject{"aud": "registry"}), "aud of refresh tokens": f.forge(nil, jsonObject{"aud": service + "/refresh"}),
		"no aud": f.forge(nil, jsonObject{"aud": nil}), "aud a list": f.forge(nil, jsonObject{"aud": []string{service, "x"}}),
		"no sub": f.forge(nil, jsonObject{"sub": nil}), "sub and user_id": f.forge(nil, jsonObject{"sub": "bob"}),
		"unknown account": f.forge(nil, jsonObject{"sub": "nobody", "user_id": "nobody"}),
		"other directory": f.forge(nil, jsonObject{"dir": "ldap"}), "other password": f.forge(nil, jsonObject{"ver": "0"}),
		"name and anonymous":         f.forge(nil, jsonObject{"anonymous": true}),
		"as long as a header may be": f.forge(nil, jsonObject{"x": strings.Repeat("x", 9000)}),
	}
	for name, secret := range map[string][]byte{"raw": own, "as text": []byte(base64.RawURLEncoding.EncodeToString(own))} {
		text := f.unsigned(jsonObject{"alg": "HS256"}, nil)
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(text))
		forged["HS256 with the public key "+name] = text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	return forged
}

// TestForgedTokensAnsweredAlike checks that all forged tokens get the same
// answer, whatever is wrong with them and whatever is requested, cached or not.
func TestForgedTokensAnsweredAlike(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice", "bob"), sitetest.Hub(up), sitetest.Visible("open", directory.Public), "token {\n refresh_tokens on\n}")
	good := s.Token("alice")
	f := newForger(t, s, good)
	paths := []string{
		"/v2/", sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.ManifestPath("acme", "alpine", string(image.Manifest)),
		sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.ManifestPath("acme", "uncached", "1"), sitetest.ManifestPath("nowhere", "alpine", "3.20"),
		"/v2/acme" + infix + "alpine/tags/list", "/v2/elsewhere",
	}
	s.Get("/v2/", sitetest.Bearer(f.forge(nil, nil))).Expect(t, http.StatusOK, "") // an unchanged token is accepted
	for _, path := range paths[1:4] {
		s.Get(path, sitetest.Bearer(good)).Expect(t, http.StatusOK, "")
	}
	s.AwaitStored(string(image.Manifest), string(image.Layers[0]))
	asked := up.Counts()
	for _, path := range paths {
		want := s.Get(path, sitetest.Bearer("x.y.z")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		for name, token := range f.forgeries(t, good) {
			if a := s.Get(path, sitetest.Bearer(token)); !sameAnswer(a, want) {
				t.Errorf("%s: %s: got %d %v %s, want %d %v %s", path, name, a.StatusCode, a.Header, a.Data, want.StatusCode, want.Header, want.Data)
			}
		}
	}
	if now := up.Counts(); now != asked {
		t.Errorf("got requests %+v to upstream, want %+v as before", now, asked)
	}
	// The token service does not accept them as refresh tokens either.
	refuse := s.Get("/jwt/auth", sitetest.Form(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x.y.z"}})).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	for name, token := range f.forgeries(t, good) {
		if name == "aud of refresh tokens" {
			continue // with the right key it is a refresh token
		}
		a := s.Get("/jwt/auth", sitetest.Form(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}))
		if a.StatusCode != refuse.StatusCode || string(a.Data) != string(refuse.Data) {
			t.Errorf("refresh: %s: got %d %s, want %d %s", name, a.StatusCode, a.Data, refuse.StatusCode, refuse.Data)
		}
	}
	// Such a long header does not reach a handler, and such a long form is
	// not read.
	long := good + strings.Repeat("A", 200<<10)
	if a := s.Get("/v2/", sitetest.Bearer(long)); a.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of 200 kB: got %d, want 431", a.StatusCode)
	}
	s.Get("/jwt/auth", sitetest.Form(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {long}})).Expect(t, http.StatusBadRequest, "UNSUPPORTED")
	s.Get("/v2/", sitetest.Bearer(good)).Expect(t, http.StatusOK, "")
}

// TestWrongLoginsAnsweredAlike checks that no answer distinguishes an account
// that exists, is blocked, or got a password too long for bcrypt from one that
// does not exist.
func TestWrongLoginsAnsweredAlike(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice", "bob"), "blocked bob", sitetest.Visible("open", directory.Public))
	logins := [][2]string{
		{"nobody", "wrong"}, {"alice", "wrong"}, {"bob", "wrong"}, {"bob", sitetest.PasswordOf("bob")},
		{"alice", strings.Repeat("x", 73)}, {"nobody", strings.Repeat("x", 73)}, {"alice", ""}, {"", ""},
	}
	for place, ask := range map[string]func(name, password string) sitetest.Answer{
		"GET": func(name, password string) sitetest.Answer {
			return s.Get(sitetest.Auth, sitetest.Basic(name, password))
		},
		"POST": func(name, password string) sitetest.Answer {
			return s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm(name, password)))
		},
		"ping": func(name, password string) sitetest.Answer { return s.Get("/v2/", sitetest.Basic(name, password)) },
		"pull": func(name, password string) sitetest.Answer {
			return s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.Basic(name, password))
		},
	} {
		want := ask(logins[0][0], logins[0][1]).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		for _, login := range logins[1:] {
			a := ask(login[0], login[1])
			if !sameAnswer(a, want) {
				t.Errorf("%s: %s with %.20q: got %d %v %s, want %d %v %s", place, login[0], login[1], a.StatusCode, a.Header, a.Data, want.StatusCode, want.Header, want.Data)
			}
		}
	}
}

// sameAnswer reports whether two answers are equal but for the Date header.
func sameAnswer(a, b sitetest.Answer) bool {
	delete(a.Header, "Date")
	delete(b.Header, "Date")
	return a.StatusCode == b.StatusCode && string(a.Data) == string(b.Data) &&
		maps.EqualFunc(a.Header, b.Header, func(x, y []string) bool { return strings.Join(x, "\n") == strings.Join(y, "\n") })
}
