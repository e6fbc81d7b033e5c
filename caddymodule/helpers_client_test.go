package caddymodule

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// basicChallenge is the challenge of each 401 where a token would not help.
const basicChallenge = `Basic realm="dependency proxy", charset="UTF-8"`

// answer is a response with its body, which is incomplete if err is set.
type answer struct {
	*http.Response
	body []byte
	err  error // from reading the body
}

// requestOption changes a request before it is sent.
type requestOption func(*http.Request)

// as logs in as an account with the password of passwordOf.
func as(name string) requestOption {
	return func(r *http.Request) { r.SetBasicAuth(name, passwordOf(name)) }
}

func bearer(token string) requestOption { return header("Authorization", "Bearer "+token) }

func method(name string) requestOption { return func(r *http.Request) { r.Method = name } }

func host(name string) requestOption { return func(r *http.Request) { r.Host = name } }

func header(name, value string) requestOption {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

// form makes the request a POST of the given fields.
func form(fields url.Values) requestOption {
	return func(r *http.Request) {
		body := fields.Encode()
		r.Method, r.Body, r.ContentLength = http.MethodPost, io.NopCloser(strings.NewReader(body)), int64(len(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	}
}

// client follows no redirects, decodes no content and gives up before the test
// times out.
var client = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 32},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       2 * time.Minute,
}

// open sends a request and returns the response without reading its body. The
// path is sent as written.
func (s *site) open(path string, changes ...requestOption) *http.Response {
	s.t.Helper()
	for tries := 0; ; tries++ {
		request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.url+path, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, change := range changes {
			change(request)
		}
		response, err := cmp.Or(s.client, client).Do(request)
		if err == nil {
			s.t.Cleanup(func() { _ = response.Body.Close() })
			return response
		}
		if !repeats(tries, err) {
			s.t.Fatal(err)
		}
	}
}

// get sends a request and reads the response.
func (s *site) get(path string, changes ...requestOption) answer {
	s.t.Helper()
	response := s.open(path, changes...)
	return s.finish(response)
}

// head sends a HEAD request.
func (s *site) head(path string, changes ...requestOption) answer {
	s.t.Helper()
	return s.get(path, append(changes, method(http.MethodHead))...)
}

// finish reads the body of a response. Tokens in it become secrets of the site.
func (s *site) finish(response *http.Response) answer {
	body, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	a := answer{response, body, err}
	if strings.HasPrefix(response.Request.URL.Path, "/jwt/auth") {
		tokens := a.tokens()
		for _, token := range []string{tokens.Token, tokens.RefreshToken} {
			if token != "" {
				s.addSecrets(token)
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

// tokens decodes the answer of the token service.
func (a answer) tokens() (tokens issued) {
	_ = json.Unmarshal(a.body, &tokens)
	return tokens
}

// code returns the code of the only error in the answer.
func (a answer) code() string { code, _ := a.problem(); return code }

// problem returns the code and the message of the only error in the answer.
func (a answer) problem() (code, message string) {
	var body struct {
		Errors []struct{ Code, Message string }
	}
	// No error is large, and decoding other content takes long.
	if len(a.body) > 64<<10 || json.Unmarshal(a.body, &body) != nil || len(body.Errors) != 1 {
		return "", ""
	}
	return body.Errors[0].Code, body.Errors[0].Message
}

// token returns a token of an account with the password of passwordOf.
func (s *site) token(name string) string {
	s.t.Helper()
	a := s.get("/jwt/auth?service=dependency_proxy", as(name))
	if a.StatusCode != http.StatusOK {
		s.t.Fatalf("login of %s: got %d %s, want 200", name, a.StatusCode, a.body)
	}
	return a.tokens().Token
}

// expect checks the status, and the code of an error.
func (a answer) expect(t testing.TB, status int, code string) answer {
	t.Helper()
	if a.err != nil {
		t.Errorf("%s %s: got a body that breaks off: %v", a.Request.Method, a.Request.URL, a.err)
	}
	if a.StatusCode != status {
		t.Errorf("%s %s: got status %d, want %d: %s", a.Request.Method, a.Request.URL, a.StatusCode, status, a.body)
	}
	if a.Request.Method != http.MethodHead && a.code() != code {
		t.Errorf("%s %s: got code %q, want %q: %.200s", a.Request.Method, a.Request.URL, a.code(), code, a.body)
	}
	return a
}

// content checks that the answer is a 200 with this body.
func (a answer) content(t testing.TB, want []byte) answer {
	t.Helper()
	if a.StatusCode != http.StatusOK || a.err != nil || string(a.body) != string(want) {
		t.Errorf("%s: got %d with %d bytes, error %v; want 200 with %d bytes: %.200s", a.Request.URL, a.StatusCode, len(a.body), a.err, len(want), a.body)
	}
	return a
}

// has checks the value of a header. An empty value means that there is no such
// header.
func (a answer) has(t testing.TB, name, want string) answer {
	t.Helper()
	if got := strings.Join(a.Header.Values(name), "\n"); got != want {
		t.Errorf("%s %s: got %s %q, want %q", a.Request.Method, a.Request.URL, name, got, want)
	}
	return a
}

// eventually polls until done reports true, and fails the test after a minute.
// Work beside requests rests for several times as long as it takes, so that a
// slow disk delays it a lot.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got nothing within 1m, want: %s", what)
		}
	}
}

// concurrently runs f n times at once and waits for all.
func concurrently(n int, f func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { f(i) })
	}
	all.Wait()
}

// manifestPath returns the path of a manifest by tag or digest.
func manifestPath(group, image, reference string) string {
	return "/v2/" + group + "/dependency_proxy/containers/" + image + "/manifests/" + reference
}

// blobPath returns the path of a blob.
func blobPath[D ~string](group, image string, digest D) string {
	return "/v2/" + group + "/dependency_proxy/containers/" + image + "/blobs/" + string(digest)
}

// idToken logs in with an ID token.
func idToken(raw string) requestOption {
	return func(r *http.Request) { r.SetBasicAuth("ci", raw) }
}

// sameHeaders checks that HEAD and GET have the same status and headers.
func sameHeaders(t testing.TB, get, head answer) {
	t.Helper()
	if len(head.body) > 0 {
		t.Errorf("HEAD %s: got a body of %d bytes, want none", head.Request.URL, len(head.body))
	}
	if get.StatusCode != head.StatusCode {
		t.Errorf("%s: got status %d for HEAD, want %d as for GET", get.Request.URL, head.StatusCode, get.StatusCode)
	}
	for name := range allHeaders(get.Header, head.Header) {
		g, h := get.Header.Get(name), head.Header.Get(name)
		if g != h && name != "Date" && (name != "Age" || !older(g, h)) {
			t.Errorf("%s: got %s %q for HEAD, want %q as for GET", get.Request.URL, name, h, g)
		}
	}
}

// older reports whether the second of two values of Age is greater, as it may be in a
// later answer.
func older(a, b string) bool {
	first, err1 := strconv.Atoi(a)
	second, err2 := strconv.Atoi(b)
	return err1 == nil && err2 == nil && second > first
}

// allHeaders returns a header with the fields of both.
func allHeaders(a, b http.Header) http.Header {
	c := a.Clone()
	for name := range b {
		c[name] = b[name]
	}
	return c
}

// sameStatus checks that HEAD has the same status as GET and no body.
func sameStatus(t *testing.T, get, head answer) {
	t.Helper()
	if head.StatusCode != get.StatusCode || len(head.body) != 0 {
		t.Errorf("%s: got status %d and %d bytes for HEAD, want %d as for GET and none", get.Request.URL, head.StatusCode, len(head.body), get.StatusCode)
	}
}

// basic logs in with the given name and secret.
func basic(name, secret string) requestOption {
	return func(r *http.Request) { r.SetBasicAuth(name, secret) }
}

// tokenFor returns a token for a name and a secret.
func (s *site) tokenFor(name, secret string) string {
	s.t.Helper()
	s.addSecrets(base64.StdEncoding.EncodeToString([]byte(name + ":" + secret)))
	return s.get(auth, basic(name, secret)).expect(s.t, http.StatusOK, "").tokens().Token
}

// forwardedFor sets the client address that a proxy in front reports.
func forwardedFor(address string) requestOption { return header("X-Forwarded-For", address) }

// auth is the path of the token service with the service's name.
const auth = "/jwt/auth?service=dependency_proxy"

// loginForm returns the form of the password grant, with more fields as pairs.
func loginForm(name, password string, more ...string) url.Values {
	fields := url.Values{"grant_type": {"password"}, "service": {service}, "client_id": {"docker"}, "username": {name}, "password": {password}}
	for i := 0; i < len(more); i += 2 {
		fields.Add(more[i], more[i+1])
	}
	return fields
}

// jsonBody sets the method and a JSON body.
func jsonBody(verb, body string) requestOption {
	return func(r *http.Request) {
		r.Method, r.Body, r.ContentLength = verb, io.NopCloser(strings.NewReader(body)), int64(len(body))
		r.Header.Set("Content-Type", "application/json")
	}
}
