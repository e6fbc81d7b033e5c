package login

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
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
func (q tokenRequest) send(s *sitetest.Site, secrets *strings.Replacer) sitetest.Answer {
	s.T.Helper()
	if q.form != "" {
		return s.Get("/jwt/auth", func(r *http.Request) {
			body := secrets.Replace(q.form)
			r.Method, r.Body, r.ContentLength = http.MethodPost, io.NopCloser(strings.NewReader(body)), int64(len(body))
			if q.chunked {
				r.ContentLength = -1
			}
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		})
	}
	return s.Get("/jwt/auth?"+q.query, func(r *http.Request) {
		if name, password, ok := strings.Cut(secrets.Replace(q.user), ":"); ok {
			r.SetBasicAuth(name, password)
		}
	})
}

// TestClientTokenRequests checks that each known client gets a token that it
// can read, with refresh tokens enabled and disabled.
func TestClientTokenRequests(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Visible("open", directory.Public), sitetest.Hub(up)}
	s := sitetest.Start(t, append(lines, "token {\n refresh_tokens on\n}")...)
	stored := s.Get(sitetest.Auth+"&offline_token=true", sitetest.As("alice")).Tokens().RefreshToken
	secrets := strings.NewReplacer("ALICE", sitetest.PasswordOf("alice"), "REFRESH", stored)
	for _, refresh := range []bool{true, false} {
		if !refresh {
			s.Load(lines...)
		}
		for _, q := range tokenRequests {
			a := q.send(s, secrets)
			if q.needRefresh && !refresh {
				a.Expect(t, http.StatusUnauthorized, "UNAUTHORIZED").Has(t, "Content-Type", "application/json")
				continue
			}
			what := q.client
			if !refresh {
				what += ", refresh tokens off"
			}
			checkTokenAnswer(t, what, a, q.offline && refresh)
			if got := a.Tokens().Scope; got != q.scope {
				t.Errorf("%s: got scope %q, want %q", what, got, q.scope)
			}
			token := sitetest.Bearer(a.Tokens().Token)
			s.Get("/v2/", token).Expect(t, http.StatusOK, "")
			pull := s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), token)
			if q.user == "" && q.form == "" {
				pull.Expect(t, http.StatusForbidden, "DENIED")
			} else {
				pull.Expect(t, http.StatusOK, "")
			}
		}
	}
}

// checkTokenAnswer checks the fields of a token response and their types, which
// clients require.
func checkTokenAnswer(t *testing.T, what string, a sitetest.Answer, refresh bool) {
	t.Helper()
	a.Expect(t, http.StatusOK, "").Has(t, "Content-Type", "application/json").Has(t, "Cache-Control", "no-store").Has(t, "WWW-Authenticate", "")
	var fields map[string]any
	if err := json.Unmarshal(a.Data, &fields); err != nil {
		t.Fatalf("%s: got error %v, want JSON: %.200s", what, err, a.Data)
	}
	token, _ := fields["token"].(string)
	if token == "" || fields["access_token"] != token {
		t.Errorf("%s: got token %T and access_token %T, want the same string", what, fields["token"], fields["access_token"])
	}
	if n, ok := fields["expires_in"].(float64); !ok || n < 60 || n != float64(int(n)) || strings.Contains(string(a.Data), `"expires_in":"`) {
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
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Visible("open", directory.Public))
	secrets := strings.NewReplacer("ALICE", "wrong", "REFRESH", "x.y.z")
	for _, q := range tokenRequests {
		if q.form == "" && q.user == "" {
			continue
		}
		a := q.send(s, secrets).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		a.Has(t, "Content-Type", "application/json").Has(t, "Cache-Control", "no-store").Has(t, "WWW-Authenticate", sitetest.BasicChallenge)
	}
	for _, verb := range []string{"HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
		a := s.Get(sitetest.Auth, sitetest.Method(verb), sitetest.As("alice")).Expect(t, http.StatusMethodNotAllowed, "UNSUPPORTED")
		a.Has(t, "Content-Type", "application/json").Has(t, "Allow", "GET, POST")
	}
	// A form without a login is invalid.
	s.Get("/jwt/auth", sitetest.Form(url.Values{"service": {sitetest.Service}, "scope": {pullScope}})).Expect(t, http.StatusBadRequest, "UNSUPPORTED")
	// Basic credentials beside a form are ignored.
	s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("alice", "wrong")), sitetest.As("alice")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestClientPullSequences checks that each known client finds the token service
// from its first request and can pull with the token.
func TestClientPullSequences(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Visible("open", directory.Public), sitetest.Hub(up))
	tag, digest := sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.ManifestPath("acme", "alpine", string(image.Manifest))
	layer := sitetest.BlobPath("acme", "alpine", image.Layers[0])
	for client, steps := range map[string][]string{
		"docker 28":         {"GET /v2/", "HEAD " + tag, "GET " + digest, "GET " + layer},
		"docker 29":         {"HEAD " + tag, "GET " + digest, "GET " + layer},
		"docker login":      {"GET /v2/", "GET /v2/"},
		"podman, crane":     {"GET /v2/", "GET " + tag, "GET " + layer},
		"regctl":            {"GET " + tag, "GET " + layer},
		"containerd's blob": {"GET " + layer},
	} {
		verb, path, _ := strings.Cut(steps[0], " ")
		a := s.Get(path, sitetest.Method(verb)).Expect(t, http.StatusUnauthorized, map[bool]string{true: "UNAUTHORIZED"}[verb == "GET"])
		challenge := a.Header.Get("WWW-Authenticate")
		realm, rest, _ := strings.Cut(strings.TrimPrefix(challenge, `Bearer realm="`), `",service="`)
		name, scope, _ := strings.Cut(strings.TrimSuffix(rest, `"`), `",scope="`)
		if strings.Contains(challenge, "error=") || name != sitetest.Service || (scope == "") != (path == "/v2/") {
			t.Fatalf("%s: got the challenge %s, want the service, and a scope unless the path is /v2/", client, challenge)
		}
		token := s.Get(strings.TrimPrefix(realm, s.URL)+"?"+url.Values{"service": {name}, "scope": {scope}}.Encode(), sitetest.As("alice")).Tokens().Token
		for _, step := range steps {
			verb, path, _ := strings.Cut(step, " ")
			s.Get(path, sitetest.Method(verb), sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
		}
	}
}
