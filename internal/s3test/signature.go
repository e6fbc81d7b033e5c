package s3test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// isSigned reports whether the query of a request signs it.
func isSigned(query url.Values) bool { return query.Has("X-Amz-Signature") }

// checkSigned verifies a signed URL (Signature Version 4, "Authenticating Requests:
// Using Query Parameters"). It returns the code of the refusal.
func (s *Server) checkSigned(r *http.Request, query url.Values) (status int, code string) {
	signed, err := time.Parse("20060102T150405Z", query.Get("X-Amz-Date"))
	lifetime, err2 := time.ParseDuration(query.Get("X-Amz-Expires") + "s")
	switch {
	case r.Header.Get("Authorization") != "":
		return http.StatusBadRequest, "InvalidArgument" // only one way to authenticate is allowed
	case err != nil || err2 != nil || lifetime <= 0 || lifetime > 7*24*time.Hour:
		return http.StatusBadRequest, "AuthorizationQueryParametersError"
	case time.Now().After(signed.Add(lifetime)):
		return http.StatusForbidden, "AccessDenied"
	}
	s.mu.Lock()
	secret := s.secret
	s.mu.Unlock()
	if want := signatureOf(r, query, secret); !hmac.Equal([]byte(want), []byte(query.Get("X-Amz-Signature"))) {
		return http.StatusForbidden, "SignatureDoesNotMatch"
	}
	return 0, ""
}

// signatureOf returns the signature that a URL must have under the secret of an access
// key.
func signatureOf(r *http.Request, query url.Values, secret string) string {
	rest := url.Values{}
	for name, values := range query {
		if name != "X-Amz-Signature" {
			rest[name] = values
		}
	}
	names := strings.Split(query.Get("X-Amz-SignedHeaders"), ";")
	slices.Sort(names)
	var headers strings.Builder
	for _, name := range names {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		headers.WriteString(name + ":" + strings.TrimSpace(value) + "\n")
	}
	canonical := sha256.Sum256([]byte(strings.Join([]string{
		r.Method, r.URL.EscapedPath(), strings.ReplaceAll(rest.Encode(), "+", "%20"), headers.String(), strings.Join(names, ";"), "UNSIGNED-PAYLOAD",
	}, "\n")))
	_, scope, _ := strings.Cut(query.Get("X-Amz-Credential"), "/")
	key := []byte("AWS4" + secret)
	for part := range strings.SplitSeq(scope, "/") { // the day, the region, the service, the version
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, strings.Join([]string{"AWS4-HMAC-SHA256", query.Get("X-Amz-Date"), scope, hex.EncodeToString(canonical[:])}, "\n")))
}

func mac(key []byte, text string) []byte {
	hash := hmac.New(sha256.New, key)
	_, _ = hash.Write([]byte(text))
	return hash.Sum(nil)
}
