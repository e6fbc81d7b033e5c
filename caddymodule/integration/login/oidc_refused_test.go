package login

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/oidctest"
)

// TestOIDCRefused checks that an ID token with any fault is refused. The log
// has the reason, the client does not get it, and no other directory is asked.
func TestOIDCRefused(t *testing.T) {
	issuer := oidctest.New(t)
	s := sitetest.NewSite(t)
	s.Globals = sitetest.TrustedProxies // one address for each login, or else they would be throttled
	s.Load(sitetest.Users("alice"), issuer.Directory("map repository_owner acme -> acme", "require ref refs/heads/main", "max_age 30m"), "directory elsewhere", sitetest.Private("acme"))
	foreign := oidctest.New(t)
	foreign.URL = issuer.URL // claims to be the issuer, with another key of the same name
	good := issuer.Token()
	parts := strings.Split(good, ".")
	other := strings.Split(issuer.Token(oidctest.Claim("repository_owner", "evil")), ".")
	addresses := 1
	for name, c := range map[string]struct{ raw, reason string }{
		"expired":                {issuer.Token(oidctest.Claim("exp", oidctest.Ago(time.Minute))), "expired"},
		"no expiry":              {issuer.Token(oidctest.Claim("exp", nil)), "expired"},
		"not yet":                {issuer.Token(oidctest.Claim("nbf", oidctest.Ago(-10*time.Minute))), "nbf"},
		"old":                    {issuer.Token(oidctest.Claim("iat", oidctest.Ago(31*time.Minute))), "max_age is 30m"},
		"of no time":             {issuer.Token(oidctest.Claim("iat", nil)), "iat"},
		"of the future":          {issuer.Token(oidctest.Claim("iat", oidctest.Ago(-2*time.Minute))), "future"},
		"time is text":           {issuer.Token(oidctest.Claim("iat", "now")), "claims"},
		"other audience":         {issuer.Token(oidctest.Claim("aud", "https://github.com/acme")), "claim aud"},
		"other audiences":        {issuer.Token(oidctest.Claim("aud", []string{"a", "b"})), "claim aud"},
		"no audience":            {issuer.Token(oidctest.Claim("aud", nil)), "claim aud"},
		"audience begins":        {issuer.Token(oidctest.Claim("aud", "registry.example.com.evil")), "claim aud"},
		"required is other":      {issuer.Token(oidctest.Claim("ref", "refs/heads/mainly")), "claim ref must be refs/heads/main, not"},
		"required is away":       {issuer.Token(oidctest.Claim("ref", nil)), "claim ref"},
		"required is case":       {issuer.Token(oidctest.Claim("ref", "refs/heads/Main")), "claim ref"},
		"required is other kind": {issuer.Token(oidctest.Claim("ref", map[string]string{"refs/heads/main": "refs/heads/main"})), "claim ref"},
		"no map":                 {issuer.Token(oidctest.Claim("repository_owner", "acme-evil")), "no map"},
		"no subject":             {issuer.Token(oidctest.Claim("sub", nil)), "claim sub"},
		"empty subject":          {issuer.Token(oidctest.Claim("sub", "")), "claim sub"},
		"control subject":        {issuer.Token(oidctest.Claim("sub", "a\nb")), "claim sub"},
		"long subject":           {issuer.Token(oidctest.Claim("sub", strings.Repeat("x", 256))), "longer than 255"},
		"alg none":               {issuer.Sign(issuer.Unsigned(jwt.SigningMethodNone), jwt.UnsafeAllowNoneSignatureType), "algorithm"},
		"HS256, PEM":             {issuer.Sign(issuer.Unsigned(jwt.SigningMethodHS256), publicPEM(t, issuer.Key)), "algorithm"},
		"HS256, JWK":             {issuer.Sign(issuer.Unsigned(jwt.SigningMethodHS256), publicJWK(t, issuer)), "algorithm"},
		"ES384 of a P-256":       {parts[0] + "." + parts[1] + "." + parts[2] + parts[2], "matches the signature"},
		"cut":                    {parts[0] + "." + parts[1] + ".", "refused"},
		"of another token":       {parts[0] + "." + other[1] + "." + parts[2], "matches the signature"},
		"another's key":          {foreign.Token(), "matches the signature"},
		"another's, in jwk":      {foreign.Token(headerField("jwk", json.RawMessage(publicJWK(t, foreign)))), "matches the signature"},
		"another's, at jku":      {foreign.Token(headerField("jku", "http://127.0.0.1:1/keys")), "matches the signature"},
		"another's kid":          {issuer.Token(headerField("kid", "../../one")), "no key"},
		"no kid, another's":      {foreign.Token(headerField("kid", nil)), "matches the signature"},
		"crit":                   {issuer.Token(headerField("crit", []string{"exp"}), headerField("exp", 1)), "matches the signature"},
		"kid is a number":        {issuer.Token(headerField("kid", 7)), "refused"},
		"long algorithm":         {issuer.Token(headerField("alg", strings.Repeat("ES256", 1000))), "algorithm"},
	} {
		s.AddSecrets(c.raw)
		sitetest.ElsewhereHeard.Store("")
		known := len(s.Logs())
		address := sitetest.ForwardedFor(fmt.Sprint("198.51.100.", addresses))
		addresses++
		for _, a := range []sitetest.Answer{s.Get(sitetest.Auth, sitetest.IDToken(c.raw), address), s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("ci", c.raw)), address)} {
			a.Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
			if _, message := a.Problem(); message != "wrong user name or password" {
				t.Errorf("%s: got the message %q, want that of a wrong password", name, message)
			}
		}
		logs := s.Logs()[known:]
		if !strings.Contains(logs, c.reason) || !strings.Contains(logs, "the id token is refused") || len(logs) > 10_000 {
			t.Errorf("%s: the log does not contain %q: %.2000s", name, c.reason, logs)
		}
		if heard := sitetest.ElsewhereHeard.Load().(string); c.raw != "" && strings.Contains(heard, c.raw) || !strings.HasPrefix(heard, "nobody-") {
			t.Errorf("%s: another directory got %q, want neither the name nor the token", name, heard)
		}
	}
	s.Get(sitetest.Auth, sitetest.IDToken(good)).Expect(t, http.StatusOK, "")
	s.Get(sitetest.Auth, sitetest.IDToken(issuer.Token(oidctest.Claim("aud", []string{"a", "registry.example.com"})))).Expect(t, http.StatusOK, "")
	s.Get(sitetest.Auth, sitetest.IDToken(issuer.Token(headerField("kid", nil)))).Expect(t, http.StatusOK, "") // there is only one key
	if asked := issuer.KeysAsked(); asked > 2 {
		t.Errorf("got %d requests of the issuer's keys, want at most 2", asked)
	}
}

// TestOIDCOtherIssuer checks that a password that is not a token of the issuer
// goes to the next directory, and that the issuer is not asked.
func TestOIDCOtherIssuer(t *testing.T) {
	issuer := oidctest.New(t)
	s := sitetest.Start(t, issuer.Directory("map repository_owner acme -> acme"), "directory elsewhere", sitetest.Private("acme"))
	s.AddSecrets(sitetest.PasswordOf("elsewhere"))
	for _, raw := range []string{
		"wrong", "", "a.b.c", "..", issuer.Token(oidctest.Claim("iss", issuer.URL+"/")), issuer.Token(oidctest.Claim("iss", nil)), issuer.Token(oidctest.Claim("iss", 7)),
		issuer.Token(oidctest.Claim("iss", strings.ToUpper(issuer.URL))), issuer.Token() + ".x", "e30.e30.e30", "e30.W10.e30",
		issuer.Token(oidctest.Claim("x", strings.Repeat("x", 16<<10))),
	} {
		sitetest.ElsewhereAsked.Store(0)
		s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("ci", raw))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		if sitetest.ElsewhereAsked.Load() != 1 {
			t.Errorf("got %d questions to the next directory about %.100q, want 1", sitetest.ElsewhereAsked.Load(), raw)
		}
	}
	s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("ci", sitetest.PasswordOf("elsewhere")))).Expect(t, http.StatusOK, "")
	if asked := issuer.KeysAsked(); asked != 0 {
		t.Errorf("got %d requests of the issuer's keys, want none", asked)
	}
}

// headerField sets a field of a token's header, or removes it if value is nil.
func headerField(name string, value any) oidctest.Change {
	return func(header map[string]any, _ jwt.MapClaims) {
		if header[name] = value; value == nil {
			delete(header, name)
		}
	}
}

func publicPEM(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func publicJWK(t *testing.T, issuer *oidctest.Issuer) []byte {
	t.Helper()
	out, err := json.Marshal(issuer.Public[0])
	if err != nil {
		t.Fatal(err)
	}
	return out
}
