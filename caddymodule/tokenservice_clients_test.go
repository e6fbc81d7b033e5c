package caddymodule

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// tokenRequest is a request that a client sends to the token service, verbatim.
// ALICE and REFRESH are placeholders for secrets.
type tokenRequest struct {
	client      string
	query       string // of a GET
	form        string // of a POST
	user        string // of Basic credentials, with the password behind a colon
	chunked     bool
	offline     bool   // the client asks for a refresh token
	needRefresh bool   // the client sends a refresh token
	scope       string // the granted scope
}

const (
	pullScope  = "repository:acme/dependency_proxy/containers/alpine:pull"
	queryScope = "repository%3Aacme%2Fdependency_proxy%2Fcontainers%2Falpine%3Apull"
)

var tokenRequests = []tokenRequest{
	{client: "docker 28 login", query: "account=alice&client_id=docker&offline_token=true&service=dependency_proxy", user: "alice:ALICE", offline: true},
	{client: "docker 28 pull", query: "account=alice&scope=" + queryScope + "&service=dependency_proxy", user: "alice:ALICE", scope: pullScope},
	{client: "docker 28 pull, not logged in", query: "scope=" + queryScope + "&service=dependency_proxy", scope: pullScope},
	{client: "docker 28 push", query: "account=alice&scope=" + queryScope[:len(queryScope)-4] + "push%2Cpull&service=dependency_proxy", user: "alice:ALICE", scope: pullScope},
	{client: "docker 28 with an identity token", form: "client_id=docker&grant_type=refresh_token&refresh_token=REFRESH&scope=" + queryScope + "&service=dependency_proxy", needRefresh: true, scope: pullScope},
	{client: "docker 29, containerd", form: "client_id=containerd-client&grant_type=password&password=ALICE&scope=" + queryScope + "&service=dependency_proxy&username=alice", scope: pullScope},
	{client: "containerd through a mirror", form: "client_id=containerd-client&grant_type=password&password=ALICE&scope=" + queryScope + "+repository%3Alibrary%2Falpine%3Apull&service=dependency_proxy&username=alice", scope: pullScope},
	{client: "containerd's fallback", query: "scope=" + queryScope + "&scope=repository%3Alibrary%2Falpine%3Apull&service=dependency_proxy", user: "alice:ALICE", scope: pullScope},
	{client: "docker 29 with an identity token", form: "client_id=containerd-client&grant_type=refresh_token&refresh_token=REFRESH&scope=" + queryScope + "&service=dependency_proxy", needRefresh: true, scope: pullScope},
	{client: "its fallback", query: "scope=" + queryScope + "&service=dependency_proxy", user: ":REFRESH", needRefresh: true, scope: pullScope},
	{client: "docker 29 login", form: "access_type=offline&client_id=docker&grant_type=password&password=ALICE&service=dependency_proxy&username=alice", offline: true},
	{client: "BuildKit through the docker command", form: "client_id=buildkit-client&grant_type=password&password=ALICE&scope=" + queryScope + "&service=dependency_proxy&username=alice", scope: pullScope},
	{client: "BuildKit alone", query: "scope=" + queryScope + "&service=dependency_proxy", user: "alice:ALICE", scope: pullScope},
	{client: "podman, skopeo, buildah", query: "account=alice&scope=" + queryScope + "&service=dependency_proxy", user: "alice:ALICE", scope: pullScope},
	{client: "podman login", query: "account=alice&service=dependency_proxy", user: "alice:ALICE"},
	{client: "podman after insufficient_scope", query: "account=alice&scope=" + queryScope + "&scope=" + queryScope + "&service=dependency_proxy", user: "alice:ALICE", scope: pullScope},
	{client: "podman with an identity token", form: "client_id=containers%2Fimage&grant_type=refresh_token&refresh_token=REFRESH&scope=" + queryScope + "&service=dependency_proxy", chunked: true, needRefresh: true, scope: pullScope},
	{client: "crane", query: "scope=" + queryScope + "&service=dependency_proxy", user: "alice:ALICE", scope: pullScope},
	{client: "crane catalog", query: "scope=registry%3Acatalog%3A%2A&service=dependency_proxy", user: "alice:ALICE"},
	{client: "regctl", query: "account=alice&client_id=regclient%2Fregctl+%28v0.11.7%29&scope=" + queryScope + "&service=dependency_proxy", user: "alice:ALICE", scope: pullScope},
	{client: "oras", query: "scope=" + queryScope + "&service=dependency_proxy", user: "alice:ALICE", scope: pullScope},
	{client: "oras login", query: "service=dependency_proxy", user: "alice:ALICE"},
	{client: "several scopes in one", query: "scope=" + queryScope + "%20repository%3Aother%2Fx%3Apull%2Cpush", user: "alice:ALICE", scope: pullScope},
	{client: "no service", query: "scope=" + queryScope, user: "alice:ALICE", scope: pullScope},
	{client: "another account than it logs in as", query: "account=bob&service=dependency_proxy", user: "alice:ALICE"},
}

// send sends the request with the given secrets.
func (q tokenRequest) send(s *site, secrets *strings.Replacer) answer {
	s.t.Helper()
	if q.form != "" {
		return s.get("/jwt/auth", func(r *http.Request) {
			body := secrets.Replace(q.form)
			r.Method, r.Body, r.ContentLength = http.MethodPost, io.NopCloser(strings.NewReader(body)), int64(len(body))
			if q.chunked {
				r.ContentLength = -1
			}
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		})
	}
	return s.get("/jwt/auth?"+q.query, func(r *http.Request) {
		if name, password, ok := strings.Cut(secrets.Replace(q.user), ":"); ok {
			r.SetBasicAuth(name, password)
		}
	})
}

// TestClientTokenRequests checks that each known client gets a token that it
// can read, with refresh tokens enabled and disabled.
func TestClientTokenRequests(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	lines := []string{users("alice"), private("acme", "alice"), visible("open", directory.Public), hub(up)}
	s := start(t, append(lines, "token {\n refresh_tokens on\n}")...)
	stored := s.get(auth+"&offline_token=true", as("alice")).tokens().RefreshToken
	secrets := strings.NewReplacer("ALICE", passwordOf("alice"), "REFRESH", stored)
	for _, refresh := range []bool{true, false} {
		if !refresh {
			s.load(lines...)
		}
		for _, q := range tokenRequests {
			a := q.send(s, secrets)
			if q.needRefresh && !refresh {
				a.expect(t, http.StatusUnauthorized, "UNAUTHORIZED").has(t, "Content-Type", "application/json")
				continue
			}
			what := q.client
			if !refresh {
				what += ", refresh tokens off"
			}
			checkTokenAnswer(t, what, a, q.offline && refresh)
			if got := a.tokens().Scope; got != q.scope {
				t.Errorf("%s: got scope %q, want %q", what, got, q.scope)
			}
			token := bearer(a.tokens().Token)
			s.get("/v2/", token).expect(t, http.StatusOK, "")
			pull := s.get(manifestPath("acme", "alpine", "3.20"), token)
			if q.user == "" && q.form == "" {
				pull.expect(t, http.StatusForbidden, "DENIED")
			} else {
				pull.expect(t, http.StatusOK, "")
			}
		}
	}
}

// checkTokenAnswer checks the fields of a token response and their types, which
// clients require.
func checkTokenAnswer(t *testing.T, what string, a answer, refresh bool) {
	t.Helper()
	a.expect(t, http.StatusOK, "").has(t, "Content-Type", "application/json").has(t, "Cache-Control", "no-store").has(t, "WWW-Authenticate", "")
	var fields map[string]any
	if err := json.Unmarshal(a.body, &fields); err != nil {
		t.Fatalf("%s: got error %v, want JSON: %.200s", what, err, a.body)
	}
	token, _ := fields["token"].(string)
	if token == "" || fields["access_token"] != token {
		t.Errorf("%s: got token %T and access_token %T, want the same string", what, fields["token"], fields["access_token"])
	}
	if n, ok := fields["expires_in"].(float64); !ok || n < 60 || n != float64(int(n)) || strings.Contains(string(a.body), `"expires_in":"`) {
		t.Errorf("%s: got expires_in %v, want an integer of at least 60", what, fields["expires_in"])
	}
	text, _ := fields["issued_at"].(string)
	if at, err := time.Parse(time.RFC3339, text); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("%s: got issued_at %v, want the present time", what, fields["issued_at"])
	}
	if _, ok := fields["refresh_token"]; ok != refresh {
		t.Errorf("%s: got a refresh token: %t, want %t", what, ok, refresh)
	}
}

// TestClientTokenRefusals checks that clients get 401 and a JSON message where
// they would otherwise not fall back from POST to GET.
func TestClientTokenRefusals(t *testing.T) {
	s := start(t, users("alice"), private("acme", "alice"), visible("open", directory.Public))
	secrets := strings.NewReplacer("ALICE", "wrong", "REFRESH", "x.y.z")
	for _, q := range tokenRequests {
		if q.form == "" && q.user == "" {
			continue
		}
		a := q.send(s, secrets).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		a.has(t, "Content-Type", "application/json").has(t, "Cache-Control", "no-store").has(t, "WWW-Authenticate", basicChallenge)
	}
	for _, verb := range []string{"HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
		a := s.get(auth, method(verb), as("alice")).expect(t, http.StatusMethodNotAllowed, "UNSUPPORTED")
		a.has(t, "Content-Type", "application/json").has(t, "Allow", "GET, POST")
	}
	// A form without a login is invalid.
	s.get("/jwt/auth", form(url.Values{"service": {service}, "scope": {pullScope}})).expect(t, http.StatusBadRequest, "UNSUPPORTED")
	// Basic credentials beside a form are ignored.
	s.get("/jwt/auth", form(loginForm("alice", "wrong")), as("alice")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestClientPullSequences checks that each known client finds the token service
// from its first request and can pull with the token.
func TestClientPullSequences(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", random(1, 100))
	s := start(t, users("alice"), private("acme", "alice"), visible("open", directory.Public), hub(up))
	tag, digest := manifestPath("acme", "alpine", "3.20"), manifestPath("acme", "alpine", string(image.Manifest))
	layer := blobPath("acme", "alpine", image.Layers[0])
	for client, steps := range map[string][]string{
		"docker 28":         {"GET /v2/", "HEAD " + tag, "GET " + digest, "GET " + layer},
		"docker 29":         {"HEAD " + tag, "GET " + digest, "GET " + layer},
		"docker login":      {"GET /v2/", "GET /v2/"},
		"podman, crane":     {"GET /v2/", "GET " + tag, "GET " + layer},
		"regctl":            {"GET " + tag, "GET " + layer},
		"containerd's blob": {"GET " + layer},
	} {
		verb, path, _ := strings.Cut(steps[0], " ")
		a := s.get(path, method(verb)).expect(t, http.StatusUnauthorized, map[bool]string{true: "UNAUTHORIZED"}[verb == "GET"])
		challenge := a.Header.Get("WWW-Authenticate")
		realm, rest, _ := strings.Cut(strings.TrimPrefix(challenge, `Bearer realm="`), `",service="`)
		name, scope, _ := strings.Cut(strings.TrimSuffix(rest, `"`), `",scope="`)
		if strings.Contains(challenge, "error=") || name != service || (scope == "") != (path == "/v2/") {
			t.Fatalf("%s: got the challenge %s, want the service, and a scope unless the path is /v2/", client, challenge)
		}
		token := s.get(strings.TrimPrefix(realm, s.url)+"?"+url.Values{"service": {name}, "scope": {scope}}.Encode(), as("alice")).tokens().Token
		for _, step := range steps {
			verb, path, _ := strings.Cut(step, " ")
			s.get(path, method(verb), bearer(token)).expect(t, http.StatusOK, "")
		}
	}
}
