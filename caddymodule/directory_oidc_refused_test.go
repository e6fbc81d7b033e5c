package caddymodule

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
)

// TestOIDCRefused: an id token that is not just right gets nobody in. The log
// has the reason, the client has not, and no other directory is asked.
func TestOIDCRefused(t *testing.T) {
	issuer := newIDIssuer(t)
	s := newSite(t)
	s.globals = trustFront // each from an address of its own, as so many would be throttled
	s.load(users("alice"), issuer.directory("map repository_owner acme -> acme", "require ref refs/heads/main", "max_age 30m"), "directory elsewhere", private("acme"))
	foreign := newIDIssuer(t)
	foreign.url = issuer.url // says that it is the other, with a key of the same name
	good := issuer.token()
	parts := strings.Split(good, ".")
	other := strings.Split(issuer.token(claim("repository_owner", "evil")), ".")
	addresses := 1
	for name, c := range map[string]struct{ raw, reason string }{
		"expired":                {issuer.token(claim("exp", ago(time.Minute))), "expired"},
		"no expiry":              {issuer.token(claim("exp", nil)), "expired"},
		"not yet":                {issuer.token(claim("nbf", ago(-10*time.Minute))), "nbf"},
		"old":                    {issuer.token(claim("iat", ago(31*time.Minute))), "max_age is 30m"},
		"of no time":             {issuer.token(claim("iat", nil)), "iat"},
		"of the future":          {issuer.token(claim("iat", ago(-2*time.Minute))), "future"},
		"time is text":           {issuer.token(claim("iat", "now")), "claims"},
		"other audience":         {issuer.token(claim("aud", "https://github.com/acme")), "claim aud"},
		"other audiences":        {issuer.token(claim("aud", []string{"a", "b"})), "claim aud"},
		"no audience":            {issuer.token(claim("aud", nil)), "claim aud"},
		"audience begins":        {issuer.token(claim("aud", "registry.example.com.evil")), "claim aud"},
		"required is other":      {issuer.token(claim("ref", "refs/heads/mainly")), "claim ref is not refs/heads/main but"},
		"required is away":       {issuer.token(claim("ref", nil)), "claim ref"},
		"required is case":       {issuer.token(claim("ref", "refs/heads/Main")), "claim ref"},
		"required is other kind": {issuer.token(claim("ref", map[string]string{"refs/heads/main": "refs/heads/main"})), "claim ref"},
		"no map":                 {issuer.token(claim("repository_owner", "acme-evil")), "no map"},
		"no subject":             {issuer.token(claim("sub", nil)), "claim sub"},
		"empty subject":          {issuer.token(claim("sub", "")), "claim sub"},
		"control subject":        {issuer.token(claim("sub", "a\nb")), "claim sub"},
		"long subject":           {issuer.token(claim("sub", strings.Repeat("x", 256))), "longer than 255"},
		"alg none":               {issuer.sign(issuer.unsigned(jwt.SigningMethodNone), jwt.UnsafeAllowNoneSignatureType), "algorithm"},
		"HS256, PEM":             {issuer.sign(issuer.unsigned(jwt.SigningMethodHS256), publicPEM(t, issuer.key)), "algorithm"},
		"HS256, JWK":             {issuer.sign(issuer.unsigned(jwt.SigningMethodHS256), publicJWK(t, issuer)), "algorithm"},
		"ES384 of a P-256":       {parts[0] + "." + parts[1] + "." + parts[2] + parts[2], "not by a key"},
		"cut":                    {parts[0] + "." + parts[1] + ".", "refused"},
		"of another token":       {parts[0] + "." + other[1] + "." + parts[2], "not by a key"},
		"another's key":          {foreign.token(), "not by a key"},
		"another's, in jwk":      {foreign.token(headerField("jwk", json.RawMessage(publicJWK(t, foreign)))), "not by a key"},
		"another's, at jku":      {foreign.token(headerField("jku", "http://127.0.0.1:1/keys")), "not by a key"},
		"another's kid":          {issuer.token(headerField("kid", "../../one")), "no key"},
		"no kid, another's":      {foreign.token(headerField("kid", nil)), "not by a key"},
		"crit":                   {issuer.token(headerField("crit", []string{"exp"}), headerField("exp", 1)), "not by a key"},
		"kid is a number":        {issuer.token(headerField("kid", 7)), "refused"},
		"long algorithm":         {issuer.token(headerField("alg", strings.Repeat("ES256", 1000))), "algorithm"},
	} {
		s.secret(c.raw)
		elsewhereHeard.Store("")
		known := len(s.logs())
		address := from(fmt.Sprint("198.51.100.", addresses))
		addresses++
		for _, a := range []answer{s.get(auth, idToken(c.raw), address), s.get("/jwt/auth", form(loginForm("ci", c.raw)), address)} {
			a.expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
			if _, message := a.problem(); message != "wrong user name or password" {
				t.Errorf("%s: the client is told %q", name, message)
			}
		}
		logs := s.logs()[known:]
		if !strings.Contains(logs, c.reason) || !strings.Contains(logs, "the id token is refused") || len(logs) > 10_000 {
			t.Errorf("%s: the log does not tell of %q: %.2000s", name, c.reason, logs)
		}
		if heard := elsewhereHeard.Load().(string); c.raw != "" && strings.Contains(heard, c.raw) || !strings.HasPrefix(heard, "nobody-") {
			t.Errorf("%s: another directory has heard %q", name, heard)
		}
	}
	s.get(auth, idToken(good)).expect(t, http.StatusOK, "")
	s.get(auth, idToken(issuer.token(claim("aud", []string{"a", "registry.example.com"})))).expect(t, http.StatusOK, "")
	s.get(auth, idToken(issuer.token(headerField("kid", nil)))).expect(t, http.StatusOK, "") // there is but one
	if asked := issuer.keysAsked(); asked > 2 {
		t.Errorf("the issuer was asked for its keys %d times", asked)
	}
}

// TestOIDCNotMine: what is no token of the issuer's is left to the directories
// after, without a word to the issuer.
func TestOIDCNotMine(t *testing.T) {
	issuer := newIDIssuer(t)
	s := start(t, issuer.directory("map repository_owner acme -> acme"), "directory elsewhere", private("acme"))
	s.secret(password("elsewhere"))
	for _, raw := range []string{
		"wrong", "", "a.b.c", "..", issuer.token(claim("iss", issuer.url+"/")), issuer.token(claim("iss", nil)), issuer.token(claim("iss", 7)),
		issuer.token(claim("iss", strings.ToUpper(issuer.url))), issuer.token() + ".x", "e30.e30.e30", "e30.W10.e30",
		issuer.token(claim("x", strings.Repeat("x", 16<<10))),
	} {
		elsewhereAsked.Store(0)
		s.get("/jwt/auth", form(loginForm("ci", raw))).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		if elsewhereAsked.Load() != 1 {
			t.Errorf("the next directory was asked %d times about %.100q", elsewhereAsked.Load(), raw)
		}
	}
	s.get("/jwt/auth", form(loginForm("ci", password("elsewhere")))).expect(t, http.StatusOK, "")
	if asked := issuer.keysAsked(); asked != 0 {
		t.Errorf("the issuer was asked for its keys %d times", asked)
	}
}

// headerField sets a field of a token's header, or takes it away.
func headerField(name string, value any) change {
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

func publicJWK(t *testing.T, issuer *idIssuer) []byte {
	t.Helper()
	out, err := json.Marshal(issuer.public[0])
	if err != nil {
		t.Fatal(err)
	}
	return out
}
