//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The account that the upstream's token service accepts.
const (
	robotName     = "robot"
	robotPassword = "robot-secret"
)

// tokenService is a token service like that of Docker Hub: anonymous clients may
// pull library/…, the robot may pull everything, and wrong credentials get 401.
type tokenService struct {
	key *ecdsa.PrivateKey
}

type tokenAccess struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

func newTokenService() (*tokenService, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return &tokenService{key}, err
}

// jwks returns the public key in the form that the registry reads.
func (s *tokenService) jwks() []byte {
	point, _ := s.key.PublicKey.Bytes() // 4, then x and y
	coordinate := base64.RawURLEncoding.EncodeToString
	data, _ := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "hub",
		"x": coordinate(point[1:33]), "y": coordinate(point[33:65]),
	}}})
	return data
}

func (s *tokenService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	user, password, given := r.BasicAuth()
	if given && (user != robotName || password != robotPassword) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"details":"incorrect username or password"}`))
		return
	}
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": "hub", "aud": "hub", "sub": user,
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(5 * time.Minute).Unix(),
		"access": granted(r.URL.Query()["scope"], given),
	})
	token.Header["kid"] = "hub"
	signed, err := token.SignedString(s.key)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"token": signed, "expires_in": 300, "issued_at": now.UTC().Format(time.RFC3339),
	})
}

// granted returns the access of a token. Less access than requested is not an error.
func granted(scopes []string, all bool) []tokenAccess {
	access := []tokenAccess{}
	for _, scope := range scopes {
		parts := strings.Split(scope, ":")
		if len(parts) != 3 || !slices.Contains(strings.Split(parts[2], ","), "pull") {
			continue
		}
		if all || strings.HasPrefix(parts[1], "library/") {
			access = append(access, tokenAccess{parts[0], parts[1], []string{"pull"}})
		}
	}
	return access
}
