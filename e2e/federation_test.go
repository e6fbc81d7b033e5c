//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
)

// issuer issues id tokens, as a CI system does for its jobs.
type issuer struct {
	*front
	key *ecdsa.PrivateKey
}

const audience = "registry.example.com"

// newIssuer starts an issuer on a loopback port.
func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	i := &issuer{key: key}
	i.front, err = newRecorder("127.0.0.1:0", http.HandlerFunc(i.serve), nil, "")
	must(t, err)
	t.Cleanup(i.stop)
	return i
}

func (i *issuer) url() string { return "http://" + i.address }

func (i *issuer) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": i.url(), "jwks_uri": i.url() + "/keys", "id_token_signing_alg_values_supported": []string{"ES256"},
		})
	case "/keys":
		key := jose.JSONWebKey{Key: i.key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{key}})
	default:
		http.NotFound(w, r)
	}
}

// idToken returns the id token of a job in a repository of the owner.
func (i *issuer) idToken(t *testing.T, owner, audience string, key *ecdsa.PrivateKey) string {
	t.Helper()
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": i.url(), "aud": audience, "sub": "repo:" + owner + "/app:ref:refs/heads/main", "repository_owner": owner,
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	})
	token.Header["kid"] = "1"
	raw, err := token.SignedString(key)
	must(t, err)
	return raw
}

// TestIDToken logs in with the id token of a CI job as the password and pulls from
// the group that the configuration maps its claims to.
func TestIDToken(t *testing.T) {
	img := lab.push.single(t, "library/id-token", "1", 1<<10)
	i := newIssuer(t)
	p := startProxy(t, "directory oidc "+i.url()+" {\n\taudience "+audience+"\n\tmap repository_owner acme -> acme\n}\n"+
		upstreamBlock("docker.io", plainEndpoint)+"group acme\ngroup other\n")
	raw := i.idToken(t, "acme", audience, i.key)
	c := newClient(t)
	for _, engine := range []string{"docker", "podman"} {
		c.run(t, engine, "login", "-u", "ci", "-p", raw, p.host)
	}
	dockerPull(t, c, p.reference("acme", img), img)
	podmanPull(t, c, p.reference("acme", img), img)
	if out := strings.ToLower(c.refuses(t, "docker", "pull", p.reference("other", img))); !strings.Contains(out, "denied") {
		t.Errorf("another group is refused with %q", out)
	}
	forger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	for what, wrong := range map[string]string{
		"another owner's":      i.idToken(t, "somebody", audience, i.key),
		"for another audience": i.idToken(t, "acme", "elsewhere.example.com", i.key),
		"forged":               i.idToken(t, "acme", audience, forger),
	} {
		for _, engine := range []string{"docker", "podman"} {
			if out := newClient(t).refuses(t, engine, "login", "-u", "ci", "-p", wrong, p.host); !refusal.MatchString(out) {
				t.Errorf("%s: an id token %s is refused with %q", engine, what, out)
			}
		}
	}
	if strings.Contains(p.output(), raw) || strings.Contains(p.output(), raw[strings.LastIndex(raw, "."):]) {
		t.Error("the log shows the id token")
	}
}

// TestGitLab logs in with access tokens of GitLab users. They can pull from a group
// as long as they may read it at GitLab.
func TestGitLab(t *testing.T) {
	img := lab.push.single(t, "library/gitlab", "1", 1<<10)
	g := gitlabtest.New(t)
	alice := g.AddUser(24, "alice")
	g.AddGroup(1, "acme", "private", 24)
	g.AddGroup(2, "acme/platform", "private")
	g.AddGroup(3, "other", "private")
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte(gitlabtest.ServiceToken+"\n"), 0o600))
	p := startProxy(t, "directory gitlab "+g.URL()+" {\n\ttoken {file."+file+"}\n\tcache_for 1s\n}\n"+upstreamBlock("docker.io", plainEndpoint))
	c := newClient(t)
	for _, engine := range []string{"docker", "podman"} {
		c.run(t, engine, "login", "-u", "alice", "-p", alice, p.host)
	}
	dockerPull(t, c, p.reference("acme", img), img)
	podmanPull(t, c, p.reference("acme/platform", img), img)
	for _, group := range []string{"other", "nowhere"} {
		if out := strings.ToLower(c.refuses(t, "docker", "pull", p.reference(group, img))); !strings.Contains(out, "denied") {
			t.Errorf("group %s is refused with %q", group, out)
		}
	}
	if out := newClient(t).refuses(t, "docker", "login", "-u", "alice", "-p", "glpat-another-secret", p.host); !refusal.MatchString(out) {
		t.Errorf("a wrong token is refused with %q", out)
	}
	token := p.askToken(t, "alice", alice)
	var reply struct{ Token string }
	token.into(t, http.StatusOK, &reply)
	path := manifestPath("acme", shortName(img), "1")
	p.get(t, reply.Token, path).want(t, http.StatusOK, "")
	g.Change(func() { delete(g.Groups[1].Members, 24) })
	must(t, p.ready(func() error { return p.get(t, reply.Token, path).is(http.StatusForbidden) }))
	g.Change(func() { g.Tokens[alice].Revoked = true })
	must(t, p.ready(func() error { return p.get(t, reply.Token, path).is(http.StatusUnauthorized) }))
	if out := newClient(t).refuses(t, "docker", "login", "-u", "alice", "-p", alice, p.host); !refusal.MatchString(out) {
		t.Errorf("a revoked token is refused with %q", out)
	}
	if out := p.output(); strings.Contains(out, alice) || strings.Contains(out, gitlabtest.ServiceToken) {
		t.Error("the log shows a token of GitLab's")
	}
}
