package tokenissuer

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

// forge signs any header and payload with private.
func forge(header, payload string, private ed25519.PrivateKey) string {
	text := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(payload))
	return text + "." + b64.EncodeToString(ed25519.Sign(private, []byte(text)))
}

func object(m map[string]any) string {
	text, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// target returns a node, its key, and the header and payload of a valid token.
func target(t testing.TB) (node *Issuer, k *key, header, payload map[string]any) {
	c := recordtest.NewClock()
	node = newNode(recordtest.NewStorage(t), c, 0)
	mint(t, node, request("alice"))
	k = keysOf(node)[0]
	now := c.Now().Unix()
	header = map[string]any{"alg": "EdDSA", "typ": "JWT", "kid": k.kid}
	payload = map[string]any{
		"iss": testIssuer, "aud": "dependency_proxy", "sub": "alice", "user_id": "alice", "ver": "7", "dir": "static", "fct": `{"id":7}`,
		"iat": now, "nbf": now, "exp": now + 900, "jti": "x",
	}
	accept(t, node, forge(object(header), object(payload), k.private))
	return node, k, header, payload
}

// Except for the cases about the signature, all tokens are signed with the right
// key.
func TestVerifyRejectsForgedHeaders(t *testing.T) {
	node, k, header, payload := target(t)
	stranger, _ := newKey(time.Now(), time.Time{})
	for name, change := range map[string]map[string]any{
		"alg none":       {"alg": "none"},
		"alg None":       {"alg": "None"},
		"alg HS256":      {"alg": "HS256"},
		"alg ES256":      {"alg": "ES256"},
		"alg Ed25519":    {"alg": "Ed25519"},
		"alg eddsa":      {"alg": "eddsa"},
		"alg empty":      {"alg": ""},
		"alg number":     {"alg": 1},
		"alg missing":    {"alg": nil},
		"typ other":      {"typ": "at+jwt"},
		"kid missing":    {"kid": nil},
		"kid empty":      {"kid": ""},
		"kid number":     {"kid": 5},
		"kid list":       {"kid": []string{k.kid}},
		"kid path":       {"kid": "../" + k.kid},
		"kid dots":       {"kid": "../x"},
		"kid file":       {"kid": k.name()},
		"kid with space": {"kid": k.kid + " "},
		"kid with NUL":   {"kid": k.kid + "\x00"},
		"kid other case": {"kid": strings.ToLower(k.kid)},
		"kid other":      {"kid": stranger.kid},
		"jwk":            {"jwk": k.jwk()},
		"jku":            {"jku": testIssuer + "/jwt/keys"},
		"x5c":            {"x5c": []string{"MII="}},
		"x5u":            {"x5u": testIssuer},
		"crit":           {"crit": []string{"exp"}},
		"b64":            {"b64": false},
		"cty":            {"cty": "JWT"},
		"zip":            {"zip": "DEF"},
	} {
		forged := maps.Clone(header)
		maps.Copy(forged, change)
		for member, value := range forged {
			if value == nil {
				delete(forged, member)
			}
		}
		refuseToken(t, node, name, forge(object(forged), object(payload), k.private))
	}
	withKey := maps.Clone(header)
	withKey["jwk"], withKey["kid"] = stranger.jwk(), stranger.kid
	refuseToken(t, node, "own jwk", forge(object(withKey), object(payload), stranger.private))
	refuseToken(t, node, "wrong key", forge(object(header), object(payload), stranger.private))
	refuseToken(t, node, "header null", forge("null", object(payload), k.private))
	refuseToken(t, node, "header list", forge("[]", object(payload), k.private))
	refuseToken(t, node, "header and more", forge(object(header)+"{}", object(payload), k.private))
	refuseToken(t, node, "deep header", forge(strings.Repeat("[", 3000), object(payload), k.private))
}

func TestVerifyRejectsForgedPayloads(t *testing.T) {
	node, k, header, payload := target(t)
	now := node.ring.now().Unix()
	for name, change := range map[string]map[string]any{
		"no exp":                 {"exp": nil},
		"exp zero":               {"exp": 0},
		"exp text":               {"exp": "1795436100"},
		"exp fraction":           {"exp": 1795436100.5},
		"exp negative":           {"exp": -1},
		"exp too big":            {"exp": 1e30},
		"exp largest":            {"exp": int64(1<<63 - 1)},
		"exp far":                {"exp": now + 12*3600 + 1},
		"exp before iat":         {"exp": now - 1, "nbf": now - 5},
		"long lived, from past":  {"iat": now - 86400*365, "exp": now + 60},
		"no iat":                 {"iat": nil},
		"iat in the future":      {"iat": now + 61},
		"no nbf":                 {"nbf": nil},
		"nbf in the future":      {"nbf": now + 61},
		"no iss":                 {"iss": nil},
		"iss empty":              {"iss": ""},
		"iss other":              {"iss": "https://other.example.com"},
		"iss with slash":         {"iss": testIssuer + "/"},
		"iss list":               {"iss": []string{testIssuer}},
		"no aud":                 {"aud": nil},
		"aud other":              {"aud": "registry"},
		"aud refresh":            {"aud": "dependency_proxy/refresh"},
		"aud list":               {"aud": []string{"dependency_proxy", "x"}},
		"no sub":                 {"sub": nil},
		"sub empty":              {"sub": "", "user_id": ""},
		"sub and user_id differ": {"user_id": "root"},
		"anonymous with a name":  {"anonymous": true},
		"anonymous with version": {"anonymous": true, "sub": "", "user_id": "", "dir": nil},
		"name with control":      {"sub": "a\tb", "user_id": "a\tb"},
	} {
		forged := maps.Clone(payload)
		maps.Copy(forged, change)
		for member, value := range forged {
			if value == nil {
				delete(forged, member)
			}
		}
		refuseToken(t, node, name, forge(object(header), object(forged), k.private))
	}
	refuseToken(t, node, "payload null", forge(object(header), "null", k.private))
	refuseToken(t, node, "payload empty", forge(object(header), "", k.private))
	refuseToken(t, node, "payload and more", forge(object(header), object(payload)+" x", k.private))

	expired := maps.Clone(payload)
	expired["iat"], expired["nbf"], expired["exp"] = now-960, now-960, now-60
	refuse(t, node, forge(object(header), object(expired), k.private), ErrTokenExpired)
	expired["iss"] = "https://other.example.com"
	if _, err := node.Verify(t.Context(), forge(object(header), object(expired), k.private), testIssuer, Access); errors.Is(err, ErrTokenExpired) {
		t.Error("got ErrTokenExpired for an expired token of another issuer, want ErrInvalidToken only")
	}
}

func TestVerifyRejectsMalformedTokens(t *testing.T) {
	node, k, header, payload := target(t)
	good := mint(t, node, request("alice")).Raw
	parts := strings.Split(good, ".")
	for name, raw := range map[string]string{
		"empty":          "",
		"dots":           "..",
		"many dots":      strings.Repeat(".", maxTokenBytes),
		"two parts":      parts[0] + "." + parts[1],
		"no signature":   parts[0] + "." + parts[1] + ".",
		"cut signature":  good[:len(good)-1],
		"half signature": good[:len(good)-43],
		"longer":         good + "A",
		"fourth part":    good + ".",
		"five parts":     good + "." + parts[1] + "." + parts[2],
		"leading dot":    "." + good,
		"padding":        good + "==",
		"trailing space": good + " ",
		"leading space":  " " + good,
		"line break":     good[:len(good)-5] + "\n" + good[len(good)-5:],
		"last line":      good + "\r\n",
		"NUL":            good + "\x00",
		"other alphabet": parts[0] + "." + parts[1] + "." + strings.Repeat("+", 86),
		"200 kB":         strings.Repeat("A", 200<<10),
		"200 kB payload": forge(object(header), object(payload)+strings.Repeat(" ", 150<<10), k.private),
		"good and 200kB": good + strings.Repeat("A", 200<<10),
		"JSON":           fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, parts[1], parts[0], parts[2]),
		"other header":   b64.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".",
		"malleable S":    parts[0] + "." + parts[1] + "." + addOrder(t, parts[2]),
		"spare bits":     good[:len(good)-1] + spareBits(t, good[len(good)-1]),
	} {
		refuseToken(t, node, name, raw)
	}
	// HMAC with the public key as the secret.
	hs := maps.Clone(header)
	hs["alg"] = "HS256"
	text := b64.EncodeToString([]byte(object(hs))) + "." + b64.EncodeToString([]byte(object(payload)))
	for _, secret := range [][]byte{k.public, []byte(b64.EncodeToString(k.public))} {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(text))
		refuseToken(t, node, "HS256", text+"."+b64.EncodeToString(mac.Sum(nil)))
	}
	// The valid token with any bit flipped, for the use for which nothing else is wrong.
	for i := range len(good) * 8 {
		flipped := []byte(good)
		flipped[i/8] ^= 1 << (i % 8)
		refuseToken(t, node, fmt.Sprintf("bit %d", i), string(flipped), Access)
	}
	accept(t, node, good)
}

// addOrder adds the order of the group to the S of a signature. A verifier that
// does not check its range accepts that (RFC 8032 section 5.1.7).
func addOrder(t *testing.T, part string) string {
	sig, err := b64.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	reversed := func(b []byte) []byte {
		out := make([]byte, 32)
		for i := range b {
			out[31-i] = b[i]
		}
		return out
	}
	s := new(big.Int).SetBytes(reversed(sig[32:]))
	sum := s.Add(s, order).FillBytes(make([]byte, 32))
	copy(sig[32:], reversed(sum))
	return b64.EncodeToString(sig)
}

// spareBits returns another last character of a signature that decodes to the
// same bytes.
func spareBits(t *testing.T, last byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	i := strings.IndexByte(alphabet, last)
	if i < 0 || i%16 != 0 {
		t.Fatalf("got %c as the last character of a signature", last)
	}
	return alphabet[i+1 : i+2]
}

// refuseToken checks that a token is refused for the given uses, by default for each.
func refuseToken(t *testing.T, node *Issuer, name, raw string, uses ...Use) {
	t.Helper()
	if uses == nil {
		uses = []Use{Access, Refresh, 0}
	}
	for _, use := range uses {
		id, err := node.Verify(t.Context(), raw, testIssuer, use)
		if !errors.Is(err, ErrInvalidToken) || errors.Is(err, ErrTokenExpired) || id != (Identity{}) {
			t.Errorf("%s: got identity %+v, error %v, want none and ErrInvalidToken", name, id, err)
		}
	}
}

func TestVerifyDistinguishesUses(t *testing.T) {
	c := recordtest.NewClock()
	node := newNode(recordtest.NewStorage(t), c, 0)
	for _, use := range []Use{Access, Refresh} {
		r := request("alice")
		r.Use, r.Identity.AuthTime = use, c.Now().Unix()
		raw := mint(t, node, r).Raw
		for _, asked := range []Use{Refresh, Access, 0, 3} {
			if _, err := node.Verify(t.Context(), raw, testIssuer, asked); (err == nil) != (asked == use) {
				t.Errorf("a token for use %d verified for use %d: got error %v", use, asked, err)
			}
		}
	}
}

func TestVerifyErrorsDoNotQuoteToken(t *testing.T) {
	node, k, header, _ := target(t)
	marker := rand.Text()
	for _, raw := range []string{
		forge(object(header), `{"exp":"`+marker+`"}`, k.private),
		forge(`{"alg":"`+marker+`"}`, "{}", k.private),
		forge(`{"alg":"EdDSA","typ":"JWT","kid":"`+marker+`"}`, "{}", k.private),
		marker + "." + marker + "." + marker,
	} {
		_, err := node.Verify(t.Context(), raw, testIssuer, Access)
		if err == nil || strings.Contains(err.Error(), marker) {
			t.Errorf("got error %v, want one without %s", err, marker)
		}
	}
}
