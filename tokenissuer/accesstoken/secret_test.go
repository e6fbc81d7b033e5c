package accesstoken

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

// scanner is the documented pattern for scanners.
var scanner = regexp.MustCompile(`^dpxy_[0-9A-Za-z]{39}$`)

func TestParse(t *testing.T) {
	node := newNode(recordtest.NewStorage(t), recordtest.NewClock())
	seen := map[string]bool{}
	for range 200 {
		secret := newSecret()
		id, hasPrefix := Parse(secret)
		if !scanner.MatchString(secret) || !hasPrefix || !IsID(id) || seen[secret] || seen[id] {
			t.Fatalf("got secret %s with ID %s, want new and well-formed ones", secret, id)
		}
		seen[secret], seen[id] = true, true
		// Replace each character, and truncate the secret everywhere.
		for i := len(Prefix); i < len(secret); i++ {
			for _, c := range "0aZ_-" {
				typo := secret[:i] + string(c) + secret[i+1:]
				if id, hasPrefix := Parse(typo); typo != secret && (id != "" || !hasPrefix) {
					t.Errorf("%s instead of %s: got ID %q, %t, want none and true", typo, secret, id, hasPrefix)
				}
			}
			if id, hasPrefix := Parse(secret[:i]); id != "" || !hasPrefix {
				t.Errorf("%s: got ID %q, %t, want none and true", secret[:i], id, hasPrefix)
			}
		}
	}
	secret := newSecret()
	for _, bad := range []string{
		"", Prefix, secret + "0", " " + secret, secret + "\n", strings.ToUpper(secret), strings.ToLower(secret),
		"ghp_" + secret[len(Prefix):], strings.Repeat("0", secretLen), Prefix + strings.Repeat("0", 39),
	} {
		if id, hasPrefix := Parse(bad); id != "" || hasPrefix != strings.HasPrefix(bad, Prefix) {
			t.Errorf("%q: got ID %q, %t, want none", bad, id, hasPrefix)
		}
		if _, err := node.Verify(t.Context(), bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: got error %v, want ErrMalformed", bad, err)
		}
	}
}

func TestIsID(t *testing.T) {
	if good := strings.Repeat("a", 16); !IsID(good) {
		t.Errorf("%q: got false, want true", good)
	}
	for _, bad := range []string{"", "a", strings.Repeat("a", 15), strings.Repeat("a", 17), strings.Repeat("A", 16), strings.Repeat("1", 16), "aaaaaaa/aaaaaaaa", "aaaaaaaaaaaaaaa\n", "\naaaaaaaaaaaaaaa"} {
		if IsID(bad) {
			t.Errorf("%q: got true, want false", bad)
		}
	}
}

// FuzzVerify checks that only the secret that was created is accepted, and that
// Parse, Verify and decodeFile accept any input.
func FuzzVerify(f *testing.F) {
	node := newNode(recordtest.NewStorage(f), recordtest.NewClock())
	created, good := create(f, node, deploy, minLifetime)
	for _, seed := range []string{good, good[1:], good + "\x00", Prefix, "dpxy_ä", strings.Repeat("x", 10000), newSecret()} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, secret string) {
		id, _ := Parse(secret)
		if (id != "") != (scanner.MatchString(secret) && checksum(secret[:secretLen-sumLen]) == secret[secretLen-sumLen:]) || id != "" && !IsID(id) {
			t.Fatalf("%q: got ID %q, want it only for a well-formed secret", secret, id)
		}
		if _, err := node.Verify(t.Context(), secret); (err == nil) != (secret == good) {
			t.Fatalf("%q: got error %v", secret, err)
		}
		_, _, _ = decodeFile(created.ID, []byte(secret))
	})
}
