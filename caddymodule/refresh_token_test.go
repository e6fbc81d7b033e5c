package caddymodule

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

const refreshTokensOn = "token {\n lifetime 1h\n refresh_tokens on\n}"

// refreshGrant is the form that exchanges a refresh token for a token and
// another refresh token.
func refreshGrant(token string) sitetest.RequestOption {
	return sitetest.Form(url.Values{"grant_type": {"refresh_token"}, "service": {service}, "refresh_token": {token}, "access_type": {"offline"}})
}

// tokenTimes returns the claims iat, auth_time and exp of a token.
func tokenTimes(t *testing.T, raw string) (issued, login, expires time.Time) {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Issued  int64 `json:"iat"`
		Login   int64 `json:"auth_time"`
		Expires int64 `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return time.Unix(claims.Issued, 0), time.Unix(claims.Login, 0), time.Unix(claims.Expires, 0)
}

// mintRefreshToken mints a refresh token of a login that was some time ago.
func mintRefreshToken(s *sitetest.Site, id tokenissuer.Identity, ago time.Duration) string {
	s.T.Helper()
	id.AuthTime = time.Now().Add(-ago).Unix()
	token, err := runningHandler(s.T).issuer.Mint(s.T.Context(), tokenissuer.MintRequest{
		Issuer: s.URL, Identity: id, Lifetime: refreshLifetime, Use: tokenissuer.Refresh,
	})
	if err != nil {
		s.T.Fatal(err)
	}
	s.AddSecrets(token.Raw)
	return token.Raw
}

// TestRefreshTokenLifetime checks that no refresh token or access token bought
// with a refresh token is valid for longer than 30 days after the login.
func TestRefreshTokenLifetime(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), refreshTokensOn)
	first := s.Get(sitetest.Auth+"&offline_token=true", sitetest.As("alice")).Expect(t, http.StatusOK, "").Tokens().RefreshToken
	issued, login, expires := tokenTimes(t, first)
	if login != issued || expires != login.Add(refreshLifetime) {
		t.Errorf("got a refresh token of a login at %s until %s, want one of %s for %s", login, expires, issued, refreshLifetime)
	}
	alice, err := runningHandler(t).accounts.Find(t.Context(), "", "static:alice")
	if err != nil {
		t.Fatal(err)
	}
	id := alice.Identity()
	old := mintRefreshToken(s, id, refreshLifetime-30*time.Minute)
	for name, token := range map[string]string{"of now": first, "of long ago": old} {
		last := time.Now().Add(refreshLifetime)
		if name == "of long ago" {
			last = time.Now().Add(30 * time.Minute)
		}
		for range 3 {
			a := s.Get("/jwt/auth", refreshGrant(token)).Expect(t, http.StatusOK, "").Tokens()
			for _, bought := range []string{a.Token, a.RefreshToken} {
				if _, _, expires := tokenTimes(t, bought); expires.After(last.Add(time.Second)) {
					t.Errorf("%s: got a token until %s, want one until %s at most", name, expires, last)
				}
			}
			if _, login, _ := tokenTimes(t, a.RefreshToken); time.Since(login) < refreshLifetime-time.Hour && name == "of long ago" {
				t.Errorf("%s: got a login at %s, want that of the first refresh token", name, login)
			}
			if issued, _, expires := tokenTimes(t, a.Token); a.ExpiresIn != int(expires.Sub(issued)/time.Second) {
				t.Errorf("%s: got expires_in %d, want %s", name, a.ExpiresIn, expires.Sub(issued))
			}
			token = a.RefreshToken
		}
	}
	// The same applies to a refresh token sent as the password of an empty
	// name.
	a := s.Get(sitetest.Auth+"&offline_token=true", sitetest.Basic("", old)).Expect(t, http.StatusOK, "").Tokens()
	if _, _, expires := tokenTimes(t, a.RefreshToken); expires.After(time.Now().Add(30 * time.Minute)) {
		t.Errorf("got a refresh token until %s, want one for 30 minutes at most", expires)
	}
	// A refresh token without the time of its login, as in older versions,
	// is refused.
	f := newForger(t, s, first)
	s.Get("/jwt/auth", refreshGrant(f.forge(nil, nil))).Expect(t, http.StatusOK, "")
	s.Get("/jwt/auth", refreshGrant(f.forge(nil, jsonObject{"auth_time": nil}))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Get("/jwt/auth", refreshGrant(f.forge(nil, jsonObject{"auth_time": time.Now().Unix() - 86400}))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestLDAPPasswordChanged checks that a changed password ends refresh tokens
// issued with the old one if an attribute shows the change, and that refresh
// tokens otherwise end a day after the login. Access tokens stay valid.
func TestLDAPPasswordChanged(t *testing.T) {
	for name, row := range map[string]struct {
		lines    string
		attr     string // changes with the password
		known    bool   // whether the change is noticed
		inTheLog string
	}{
		"a password policy": {"", "pwdChangedTime", true, `"attribute":"pwdChangedTime"`},
		"Active Directory":  {"", "pwdLastSet", true, `"attribute":"pwdLastSet"`},
		"an own attribute":  {"password_changed shadowLastChange", "shadowLastChange", true, `"attribute":"shadowLastChange"`},
		"another than said": {"password_changed shadowLastChange", "pwdChangedTime", false, "24 hours after the login"},
		"none":              {"", "description", false, "24 hours after the login"},
	} {
		t.Run(name, func(t *testing.T) {
			l := ldaptest.New(t, true)
			put := func(secret, changed string) {
				l.Put("uid=alice,"+ldaptest.People, "uid", "alice", "userPassword", secret, "entryUUID", "uuid-alice", row.attr, changed)
			}
			put(sitetest.PasswordOf("alice"), "20260101000000Z")
			s := sitetest.NewSite(t)
			s.OpenAdmin()
			s.AddSecrets(ldaptest.ServicePassword)
			s.Load(l.Directory("cache_for 1ns", row.lines), sitetest.Private("acme"), refreshTokensOn)
			tokens := s.Get(sitetest.Auth+"&offline_token=true", sitetest.As("alice")).Expect(t, http.StatusOK, "").Tokens()
			secret, _ := s.CreateToken("--account", "alice")
			s.Get("/jwt/auth", refreshGrant(tokens.RefreshToken)).Expect(t, http.StatusOK, "")
			limit := refreshLifetime
			if !row.known {
				limit = 24 * time.Hour
			}
			if _, login, expires := tokenTimes(t, tokens.RefreshToken); expires != login.Add(limit) {
				t.Errorf("got a refresh token for %s, want %s", expires.Sub(login), limit)
			}
			if !strings.Contains(s.Logs(), row.inTheLog) {
				t.Errorf("the log does not tell %q", row.inTheLog)
			}
			if !row.known {
				// The limit also applies to a token minted without it.
				who, err := runningHandler(t).accounts.Find(t.Context(), "account", "alice")
				if err != nil {
					t.Fatal(err)
				}
				s.Get("/jwt/auth", refreshGrant(mintRefreshToken(s, who.Identity(), 24*time.Hour-time.Minute))).Expect(t, http.StatusOK, "")
				s.Get("/jwt/auth", refreshGrant(mintRefreshToken(s, who.Identity(), 24*time.Hour))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
			}

			next := sitetest.PasswordOf("alice") + "-of-now"
			s.AddSecrets(next)
			put(next, "20260202000000Z")
			want := map[bool]int{true: 401, false: 200}[row.known]
			if a := s.Get("/jwt/auth", refreshGrant(tokens.RefreshToken)); a.StatusCode != want {
				t.Errorf("after the change: got %d for the refresh token, want %d", a.StatusCode, want)
			}
			s.Get(sitetest.Auth, sitetest.Basic("alice", next)).Expect(t, http.StatusOK, "")
			s.Get(sitetest.Auth, sitetest.Basic("x", secret)).Expect(t, http.StatusOK, "")
		})
	}
}
