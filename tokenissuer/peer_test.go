package tokenissuer

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

// TestPeerTokens checks that a token reaches its target on another node for its
// lifetime, and nobody else.
func TestPeerTokens(t *testing.T) {
	c, s := recordtest.NewClock(), recordtest.NewStorage(t)
	here, there := newNode(s, c, 0), newNode(s, c, 0)
	raw, err := here.MintPeer(t.Context(), "process", `{"x":"y"}`)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(target string) error {
		t.Helper()
		facts, err := there.VerifyPeer(t.Context(), raw, target)
		if want := `{"x":"y"}`; err == nil && facts != want || err != nil && facts != "" {
			t.Errorf("got facts %q with error %v, want %q or an error", facts, err, want)
		}
		return err
	}
	if err := verify("process"); err != nil {
		t.Errorf("got %v at the target, want nil", err)
	}
	for _, other := range []string{"", "other", "proces", "process "} {
		if err := verify(other); !errors.Is(err, ErrInvalidToken) {
			t.Errorf("got %v at target %q, want ErrInvalidToken", err, other)
		}
	}
	c.Advance(PeerLifetime + PeerLeeway - time.Second)
	if err := verify("process"); err != nil {
		t.Errorf("got %v at the end of the leeway, want nil", err)
	}
	c.Advance(time.Second)
	if err := verify("process"); !errors.Is(err, ErrTokenExpired) {
		t.Errorf("got %v after the leeway, want ErrTokenExpired", err)
	}
	c.Advance(-PeerLifetime - 2*PeerLeeway - time.Second)
	if err := verify("process"); !errors.Is(err, ErrInvalidToken) {
		t.Errorf("got %v before the leeway, want ErrInvalidToken", err)
	}
}

// TestPeerTokensAreNotThoseOfClients checks that neither is accepted in place of the
// other.
func TestPeerTokensAreNotThoseOfClients(t *testing.T) {
	c := recordtest.NewClock()
	node := newNode(recordtest.NewStorage(t), c, 0)
	raw, err := node.MintPeer(t.Context(), "alice", "facts")
	if err != nil {
		t.Fatal(err)
	}
	for _, iss := range []string{testIssuer, ""} {
		for _, use := range []Use{Access, Refresh, 0} {
			if id, err := node.Verify(t.Context(), raw, iss, use); !errors.Is(err, ErrInvalidToken) || id != (Identity{}) {
				t.Errorf("got %+v, %v for a token of a peer as use %d of %q, want ErrInvalidToken", id, err, use, iss)
			}
		}
	}
	refresh := request("alice")
	refresh.Use, refresh.Identity.AuthTime = Refresh, c.Now().Unix()
	for _, r := range []MintRequest{request("alice"), refresh} {
		if facts, err := node.VerifyPeer(t.Context(), mint(t, node, r).Raw, "alice"); !errors.Is(err, ErrInvalidToken) || facts != "" {
			t.Errorf("got %q, %v for a client's token of use %d, want ErrInvalidToken", facts, err, r.Use)
		}
	}
}

// TestVerifyPeerRejectsForgedTokens checks tokens that are signed with the right key,
// except for the last ones.
func TestVerifyPeerRejectsForgedTokens(t *testing.T) {
	node, k, header, _ := target(t)
	now := node.ring.now().Unix()
	payload := map[string]any{"aud": "dependency_proxy/peer", "sub": "process", "fct": "facts", "iat": now, "nbf": now, "exp": now + 60}
	valid := forge(object(header), object(payload), k.private)
	if facts, err := node.VerifyPeer(t.Context(), valid, "process"); err != nil || facts != "facts" {
		t.Fatalf("got %q, %v for the unchanged token, want it accepted", facts, err)
	}
	forged := map[string]string{"too long": valid + strings.Repeat("A", maxTokenBytes), "not compact": valid + "\n"}
	for name, change := range map[string]map[string]any{
		"access": {"aud": "dependency_proxy"}, "refresh": {"aud": "dependency_proxy/refresh"}, "no audience": {"aud": ""}, "list": {"aud": []string{"dependency_proxy/peer"}},
		"no target": {"sub": ""}, "no facts": {"fct": ""}, "long facts": {"fct": strings.Repeat("x", MaxPeerFacts+1)}, "control": {"fct": "a\x00"},
		"61s": {"exp": now + 61}, "no iat": {"iat": 0}, "no nbf": {"nbf": 0}, "no exp": {"exp": 0}, "later": {"nbf": now + 11}, "backwards": {"exp": now - 1},
	} {
		forged[name] = forge(object(header), object(merged(payload, change)), k.private)
	}
	stranger, err := newKey(time.Now(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	forged["other key"] = forge(object(header), object(payload), stranger.private)
	forged["jwk"] = forge(object(merged(header, map[string]any{"jwk": "x"})), object(payload), k.private)
	forged["unknown key"] = forge(object(merged(header, map[string]any{"kid": stranger.kid})), object(payload), stranger.private)
	forged["alg none"] = forge(object(merged(header, map[string]any{"alg": "none"})), object(payload), k.private)
	for name, raw := range forged {
		if facts, err := node.VerifyPeer(t.Context(), raw, "process"); !errors.Is(err, ErrInvalidToken) || facts != "" {
			t.Errorf("%s: got %q, %v, want ErrInvalidToken", name, facts, err)
		}
	}
}

// TestMintPeerRejectsWhatCannotBeVerified checks the limits of the arguments.
func TestMintPeerRejectsWhatCannotBeVerified(t *testing.T) {
	node := newNode(recordtest.NewStorage(t), recordtest.NewClock(), 0)
	for _, args := range [][2]string{{"", "x"}, {"x", ""}, {"a\n", "x"}, {"x", "\xff"}, {strings.Repeat("x", 256), "x"}, {"x", strings.Repeat("x", MaxPeerFacts+1)}} {
		if raw, err := node.MintPeer(t.Context(), args[0], args[1]); err == nil {
			t.Errorf("got %q for target of %d and facts of %d bytes, want an error", raw, len(args[0]), len(args[1]))
		}
	}
}
