package peers

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

const someDigest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

func someAsk() Ask {
	return Ask{Kind: Blob, Group: "acme", Upstream: "docker.io", Repository: "library/alpine", Reference: someDigest, Fingerprint: "f1"}
}

// captured returns the path and the token of a request that from sends to the server.
func captured(t *testing.T, from *Cluster, to *server, ask Ask) (path, token string) {
	t.Helper()
	to.set(func(s *server) {
		s.handler = func(_ http.ResponseWriter, r *http.Request) {
			path, token = r.URL.EscapedPath(), r.Header.Get("Authorization")
			panic(http.ErrAbortHandler)
		}
	})
	_, _ = from.node(t, to).Get(t.Context(), ask, nil)
	to.set(func(s *server) { s.handler = nil })
	if token == "" {
		t.Fatal("got no request, want one")
	}
	return path, token
}

// authorize returns the result for a request with a token.
func authorize(c *Cluster, path, token string) (Ask, error) {
	r := httptest.NewRequest(http.MethodGet, "https://"+serverName+path, nil)
	if token != "" {
		r.Header.Set("Authorization", token)
	}
	return c.authorize(r)
}

// TestAuthorizeAcceptsOneRequest checks that a token is good for what it was minted
// for, and for nothing else: another path, process, site or time.
func TestAuthorizeAcceptsOneRequest(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(3)
	path, token := captured(t, s[0].current(), s[1], someAsk())
	if got, err := authorize(s[1].current(), path, token); err != nil || !got.IsOf(someAsk()) || got.Reference != someAsk().Reference || got.From != s[0].current().id {
		t.Fatalf("got %+v, %v at the target, want the ask", got, err)
	}
	other := strings.Replace(path, "9f86", "9f87", 1)
	site := n.listen()
	elsewhere := n.runSite(site, n.config(n.names()...), "other site")
	elsewhere.id = s[1].current().id // of the same process
	restarted := n.listen()
	for name, row := range map[string]struct {
		at          *Cluster
		path, token string
		want        error
	}{
		"no token":       {s[1].current(), path, "", errUnauthorized},
		"no bearer":      {s[1].current(), path, strings.Replace(token, "Bearer", "Basic", 1), errUnauthorized},
		"another node":   {s[2].current(), path, token, errUnauthorized},
		"asking node":    {s[0].current(), path, token, errUnauthorized},
		"new process":    {n.run(restarted, n.config(n.names()...)), path, token, errUnauthorized},
		"no cluster":     {nil, path, token, errUnauthorized},
		"another site":   {elsewhere, path, token, errForbidden},
		"another digest": {s[1].current(), other, token, errForbidden},
		"manifest":       {s[1].current(), strings.Replace(path, "blobs", "manifests", 1), token, errForbidden},
		"escaped":        {s[1].current(), strings.Replace(path, ":", "%3A", 1), token, errForbidden},
		"longer":         {s[1].current(), path + "/", token, errForbidden},
		"probe":          {s[1].current(), ProbePath, token, errForbidden},
		"changed":        {s[1].current(), path, token[:len(token)-10] + "AAAAAAAAAA", errUnauthorized},
	} {
		if got, err := authorize(row.at, row.path, row.token); !errors.Is(err, row.want) || got != (Ask{}) {
			t.Errorf("%s: got %+v, %v, want %v", name, got, err, row.want)
		}
	}
	n.clock.advance(tokenissuer.PeerLifetime + tokenissuer.PeerLeeway)
	if got, err := authorize(s[1].current(), path, token); !errors.Is(err, errUnauthorized) || got != (Ask{}) {
		t.Errorf("got %+v, %v after the lifetime, want errUnauthorized", got, err)
	}
}

// TestAuthorizeRequiresTLS checks that a token is refused that came over plain HTTP, also if a
// proxy in front says that it has terminated TLS: nodes reach each other directly.
func TestAuthorizeRequiresTLS(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(2)
	path, token := captured(t, s[0].current(), s[1], someAsk())
	r := httptest.NewRequest(http.MethodGet, "http://"+serverName+path, nil)
	r.Header.Set("Authorization", token)
	r.Header.Set("X-Forwarded-Proto", "https")
	got, done, err := s[1].current().Admit(r)
	if got != (Ask{}) || done != nil || !errors.Is(err, errPlain) || StatusOf(err) != http.StatusForbidden {
		t.Errorf("got %+v and the error %v with status %d, want errPlain and 403", got, err, StatusOf(err))
	}
}

// TestAuthorizeRejectsTokensOfClients checks that a client's token is not accepted
// as a node's, even if the account has the id of the process as its name.
func TestAuthorizeRejectsTokensOfClients(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(2)
	c := s[1].current()
	text, err := json.Marshal(facts{"site", someAsk()})
	if err != nil {
		t.Fatal(err)
	}
	token, err := n.issuer().Mint(t.Context(), tokenissuer.MintRequest{
		Issuer: "https://" + serverName, Lifetime: time.Minute, Use: tokenissuer.Access,
		Identity: tokenissuer.Identity{Name: c.id, Facts: string(text)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := authorize(c, someAsk().path(), "Bearer "+token.Raw); !errors.Is(err, errUnauthorized) || got != (Ask{}) {
		t.Errorf("got %+v, %v, want errUnauthorized", got, err)
	}
	_, peer := captured(t, s[0].current(), s[1], someAsk())
	if id, err := n.issuer().Verify(t.Context(), strings.TrimPrefix(peer, "Bearer "), "https://"+serverName, tokenissuer.Access); !errors.Is(err, tokenissuer.ErrInvalidToken) {
		t.Errorf("got %+v, %v for a node's token from a client, want ErrInvalidToken", id, err)
	}
}

// TestAuthorizeRequiresTheAsker checks that a token that does not name another process as
// the one that asks is refused: its request would be answered as that of a client, for
// which other nodes are asked in turn.
func TestAuthorizeRequiresTheAsker(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(2)
	c := s[1].current()
	for name, from := range map[string]string{"nobody": "", "no process": "node", "itself": c.id} {
		ask := someAsk()
		ask.From = from
		text, err := json.Marshal(facts{"site", ask})
		if err != nil {
			t.Fatal(err)
		}
		token, err := n.issuer().MintPeer(t.Context(), c.id, string(text))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := authorize(c, ask.path(), "Bearer "+token); !errors.Is(err, errForbidden) || got != (Ask{}) {
			t.Errorf("%s: got %+v, %v, want errForbidden", name, got, err)
		}
	}
}

// TestGetRejectsInvalidAsks checks that nothing invalid is sent.
func TestGetRejectsInvalidAsks(t *testing.T) {
	n := newNetwork(t)
	s := n.cluster(2)
	s[1].set(func(s *server) {
		s.handler = func(http.ResponseWriter, *http.Request) { t.Error("got a request, want none") }
	})
	for name, change := range map[string]func(*Ask){
		"kind":        func(a *Ask) { a.Kind = "tags" },
		"blob by tag": func(a *Ask) { a.Reference = "latest" },
		"path":        func(a *Ask) { a.Reference = "../x" },
		"group":       func(a *Ask) { a.Group = "" },
		"repository":  func(a *Ask) { a.Repository = "A" },
		"upstream":    func(a *Ask) { a.Upstream = "" },
		"fingerprint": func(a *Ask) { a.Fingerprint = "" },
	} {
		ask := someAsk()
		change(&ask)
		if resp, err := s[0].current().node(t, s[1]).Get(t.Context(), ask, nil); err == nil {
			_ = resp.Body.Close()
			t.Errorf("%s: got no error, want one", name)
		}
	}
}

// TestRefusalsAreLoggedAtALimitedRate checks that requests without a valid token cannot fill
// the log, and that the log says how many were left out.
func TestRefusalsAreLoggedAtALimitedRate(t *testing.T) {
	n := newNetwork(t)
	n.listen()
	c := n.run(n.servers[0], n.config(n.names()...))
	flood := func() (logged []string) {
		for range 1000 {
			if reason, ok := c.Refusal(errUnauthorized); ok {
				logged = append(logged, reason)
			}
		}
		return logged
	}
	if got := flood(); len(got) != maxRefusals || got[0] != errUnauthorized.Error() {
		t.Errorf("got the lines %q, want %d", got, maxRefusals)
	}
	n.clock.advance(refusalEvery)
	if got := flood(); len(got) != 1 || !strings.Contains(got[0], fmt.Sprint(1000-maxRefusals)) {
		t.Errorf("later: got the lines %q, want one with the number of those before", got)
	}
}
