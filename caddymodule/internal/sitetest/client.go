package sitetest

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// BasicChallenge is the challenge of each 401 where a token would not help.
const BasicChallenge = `Basic realm="dependency proxy", charset="UTF-8"`

// Answer is a response with its body, which is incomplete if Err is set.
type Answer struct {
	*http.Response
	Data []byte // the body
	Err  error  // from reading the body
}

// RequestOption changes a request before it is sent.
type RequestOption func(*http.Request)

// As logs in as an account with the password of PasswordOf.
func As(name string) RequestOption {
	return func(r *http.Request) { r.SetBasicAuth(name, PasswordOf(name)) }
}

// Bearer sends a token as its authorization.
func Bearer(token string) RequestOption { return Header("Authorization", "Bearer "+token) }

// Method sets the method.
func Method(name string) RequestOption { return func(r *http.Request) { r.Method = name } }

// Host sets the host that the client asks for.
func Host(name string) RequestOption { return func(r *http.Request) { r.Host = name } }

// Header sets a field of the header.
func Header(name, value string) RequestOption {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

// Form makes the request a POST of the given fields.
func Form(fields url.Values) RequestOption {
	return func(r *http.Request) {
		body := fields.Encode()
		r.Method, r.Body, r.ContentLength = http.MethodPost, io.NopCloser(strings.NewReader(body)), int64(len(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	}
}

// Client follows no redirects, decodes no content and gives up before the test
// times out.
var Client = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 32},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       2 * time.Minute,
}

// Open sends a request and returns the response without reading its body. The
// path is sent as written.
func (s *Site) Open(path string, changes ...RequestOption) *http.Response {
	s.T.Helper()
	for tries := 0; ; tries++ {
		request, err := http.NewRequestWithContext(s.T.Context(), http.MethodGet, s.URL+path, nil)
		if err != nil {
			s.T.Fatal(err)
		}
		for _, change := range changes {
			change(request)
		}
		response, err := cmp.Or(s.Client, Client).Do(request)
		if err == nil {
			s.T.Cleanup(func() { _ = response.Body.Close() })
			return response
		}
		if !Repeats(tries, err) {
			s.T.Fatal(err)
		}
	}
}

// Get sends a request and reads the response.
func (s *Site) Get(path string, changes ...RequestOption) Answer {
	s.T.Helper()
	response := s.Open(path, changes...)
	return s.Finish(response)
}

// Head sends a HEAD request.
func (s *Site) Head(path string, changes ...RequestOption) Answer {
	s.T.Helper()
	return s.Get(path, append(changes, Method(http.MethodHead))...)
}

// Finish reads the body of a response. Tokens in it become secrets of the site.
func (s *Site) Finish(response *http.Response) Answer {
	body, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	a := Answer{response, body, err}
	if strings.HasPrefix(response.Request.URL.Path, "/jwt/auth") {
		tokens := a.Tokens()
		for _, token := range []string{tokens.Token, tokens.RefreshToken} {
			if token != "" {
				s.AddSecrets(token)
			}
		}
	}
	return a
}

// issued is what the token service answers.
type issued struct {
	Token        string `json:"token"`
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"`
	IssuedAt     string `json:"issued_at"`
	RefreshToken string `json:"refresh_token"`
	Scope        string `json:"scope"`
}

// Tokens decodes the answer of the token service.
func (a Answer) Tokens() (tokens issued) {
	_ = json.Unmarshal(a.Data, &tokens)
	return tokens
}

// Code returns the code of the only error in the answer.
func (a Answer) Code() string { code, _ := a.Problem(); return code }

// Problem returns the code and the message of the only error in the answer.
func (a Answer) Problem() (code, message string) {
	var body struct {
		Errors []struct{ Code, Message string }
	}
	// No error is large, and decoding other content takes long.
	if len(a.Data) > 64<<10 || json.Unmarshal(a.Data, &body) != nil || len(body.Errors) != 1 {
		return "", ""
	}
	return body.Errors[0].Code, body.Errors[0].Message
}

// Token returns a token of an account with the password of PasswordOf.
func (s *Site) Token(name string) string {
	s.T.Helper()
	a := s.Get("/jwt/auth?service=dependency_proxy", As(name))
	if a.StatusCode != http.StatusOK {
		s.T.Fatalf("login of %s: got %d %s, want 200", name, a.StatusCode, a.Data)
	}
	return a.Tokens().Token
}

// Expect checks the status, and the code of an error.
func (a Answer) Expect(t testing.TB, status int, code string) Answer {
	t.Helper()
	if a.Err != nil {
		t.Errorf("%s %s: got a body that breaks off: %v", a.Request.Method, a.Request.URL, a.Err)
	}
	if a.StatusCode != status {
		t.Errorf("%s %s: got status %d, want %d: %s", a.Request.Method, a.Request.URL, a.StatusCode, status, a.Data)
	}
	if a.Request.Method != http.MethodHead && a.Code() != code {
		t.Errorf("%s %s: got code %q, want %q: %.200s", a.Request.Method, a.Request.URL, a.Code(), code, a.Data)
	}
	return a
}

// Content checks that the answer is a 200 with this body.
func (a Answer) Content(t testing.TB, want []byte) Answer {
	t.Helper()
	if a.StatusCode != http.StatusOK || a.Err != nil || string(a.Data) != string(want) {
		t.Errorf("%s: got %d with %d bytes, error %v; want 200 with %d bytes: %.200s", a.Request.URL, a.StatusCode, len(a.Data), a.Err, len(want), a.Data)
	}
	return a
}

// Has checks the value of a header. An empty value means that there is no such
// header.
func (a Answer) Has(t testing.TB, name, want string) Answer {
	t.Helper()
	if got := strings.Join(a.Header.Values(name), "\n"); got != want {
		t.Errorf("%s %s: got %s %q, want %q", a.Request.Method, a.Request.URL, name, got, want)
	}
	return a
}

// Eventually polls until done reports true, and fails the test after two minutes.
// Background work pauses for several times as long as it takes, so a slow disk
// delays it a lot, and a quota may be measured again only after a minute.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got nothing within 2m, want: %s", what)
		}
	}
}

// Concurrently runs f n times at once and waits for all.
func Concurrently(n int, f func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { f(i) })
	}
	all.Wait()
}

// ManifestPath returns the path of a manifest by tag or digest.
func ManifestPath(group, image, reference string) string {
	return "/v2/" + group + "/dependency_proxy/containers/" + image + "/manifests/" + reference
}

// BlobPath returns the path of a blob.
func BlobPath[D ~string](group, image string, digest D) string {
	return "/v2/" + group + "/dependency_proxy/containers/" + image + "/blobs/" + string(digest)
}

// IDToken logs in with an ID token.
func IDToken(raw string) RequestOption {
	return func(r *http.Request) { r.SetBasicAuth("ci", raw) }
}

// Basic logs in with the given name and secret.
func Basic(name, secret string) RequestOption {
	return func(r *http.Request) { r.SetBasicAuth(name, secret) }
}

// TokenFor returns a token for a name and a secret.
func (s *Site) TokenFor(name, secret string) string {
	s.T.Helper()
	s.AddSecrets(base64.StdEncoding.EncodeToString([]byte(name + ":" + secret)))
	return s.Get(Auth, Basic(name, secret)).Expect(s.T, http.StatusOK, "").Tokens().Token
}

// ForwardedFor sets the client address that a proxy in front reports.
func ForwardedFor(address string) RequestOption { return Header("X-Forwarded-For", address) }

// Service is the name of the token service.
const Service = "dependency_proxy"

// Auth is the path of the token service with the service's name.
const Auth = "/jwt/auth?service=dependency_proxy"

// LoginForm returns the form of the password grant, with more fields as pairs.
func LoginForm(name, password string, more ...string) url.Values {
	fields := url.Values{"grant_type": {"password"}, "service": {Service}, "client_id": {"docker"}, "username": {name}, "password": {password}}
	for i := 0; i < len(more); i += 2 {
		fields.Add(more[i], more[i+1])
	}
	return fields
}

// JSONBody sets the method and a JSON body.
func JSONBody(verb, body string) RequestOption {
	return func(r *http.Request) {
		r.Method, r.Body, r.ContentLength = verb, io.NopCloser(strings.NewReader(body)), int64(len(body))
		r.Header.Set("Content-Type", "application/json")
	}
}
