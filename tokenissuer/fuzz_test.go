package tokenissuer

import (
	"errors"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

func FuzzParseScopes(f *testing.F) {
	for _, seed := range []string{
		"repository:acme/dependency_proxy/containers/alpine:pull", "registry:catalog:*", "a:b:c d:e:f,g",
		"repository(plugin):h:5000/x:pull,push", ":::", "  ", "a:b:", "\x00", "ä:ö:ü",
	} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		for _, scope := range ParseScopes([]string{one, two, one}) {
			text := scope.String()
			if strings.ContainsFunc(text, isInvalidInScope) || scope.Type == "" || scope.Name == "" || len(scope.Actions) == 0 {
				t.Fatalf("got scope %q from %q, %q", text, one, two)
			}
			if len(text) > maxScopeBytes {
				continue // two scopes, merged
			}
			again := ParseScopes([]string{text})
			if len(again) != 1 || again[0].String() != text {
				t.Fatalf("got %v, want %q", again, text)
			}
		}
	})
}

// FuzzVerify checks that only the token that was minted is accepted.
func FuzzVerify(f *testing.F) {
	node, k, header, payload := target(f)
	good := mint(f, node, request("alice")).Raw
	parts := strings.Split(good, ".")
	f.Add(good)
	f.Add(good + ".")
	f.Add(parts[0] + "." + parts[1] + ".")
	f.Add(parts[0] + ".." + parts[2])
	f.Add(forge(`{"alg":"none"}`, object(payload), k.private))
	f.Add(forge(object(header), "null", k.private))
	f.Add(forge("null", "[]", k.private))
	f.Fuzz(func(t *testing.T, raw string) {
		if raw == good {
			return
		}
		id, err := node.Verify(t.Context(), raw, testIssuer, Access)
		if id == (Identity{}) && errors.Is(err, ErrInvalidToken) {
			return
		}
		t.Fatalf("%q: got identity %+v, error %v, want ErrInvalidToken", raw, id, err)
	})
}

// FuzzVerifySigned signs its input, so that Verify parses all of it, and checks
// that an accepted identity is valid.
func FuzzVerifySigned(f *testing.F) {
	node, k, header, payload := target(f)
	f.Add(object(header), object(payload))
	f.Add(object(header), `{"sub":"","anonymous":true}`)
	f.Add(`{"alg":"HS256","typ":"JWT","kid":"x"}`, "{}")
	f.Add("null", "null")
	f.Fuzz(func(t *testing.T, header, payload string) {
		id, err := node.Verify(t.Context(), forge(header, payload, k.private), testIssuer, Access)
		if err == nil && id.check() != nil || err != nil && !errors.Is(err, ErrInvalidToken) {
			t.Fatalf("%q %q: got identity %+v, error %v", header, payload, id, err)
		}
	})
}

func FuzzDecodeKey(f *testing.F) {
	k, err := newKey(recordtest.NewClock().Now(), recordtest.NewClock().Now())
	if err != nil {
		f.Fatal(err)
	}
	content, err := k.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.name(), content)
	f.Add("", []byte("null"))
	f.Fuzz(func(t *testing.T, name string, content []byte) {
		got, err := decodeKey(name, content)
		if err == nil && thumbprint(got.public) != got.kid {
			t.Fatalf("%q %q: got kid %s, want %s", name, content, got.kid, thumbprint(got.public))
		}
	})
}
