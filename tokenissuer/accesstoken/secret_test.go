package accesstoken

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

// scanner is what the documentation tells scanners to look for.
var scanner = regexp.MustCompile(`^dpxy_[0-9A-Za-z]{39}$`)

func TestSecrets(t *testing.T) {
	node := newNode(newStorage(t), newClock())
	seen := map[string]bool{}
	for range 200 {
		secret := newSecret()
		id := IDOf(secret)
		if !scanner.MatchString(secret) || !IsOurs(secret) || !IsID(id) || seen[secret] || seen[id] {
			t.Fatalf("%s, %s", secret, id)
		}
		seen[secret], seen[id] = true, true
		// Each other letter in each place is a typo, and so is what is missing.
		for i := len(Prefix); i < len(secret); i++ {
			for _, c := range "0aZ_-" {
				typo := secret[:i] + string(c) + secret[i+1:]
				if typo != secret && IDOf(typo) != "" {
					t.Errorf("%s is taken for %s", typo, secret)
				}
			}
			if IDOf(secret[:i]) != "" {
				t.Errorf("%s is enough", secret[:i])
			}
		}
	}
	secret := newSecret()
	for _, bad := range []string{
		"", Prefix, secret + "0", " " + secret, secret + "\n", strings.ToUpper(secret), strings.ToLower(secret),
		"ghp_" + secret[len(Prefix):], strings.Repeat("0", secretLen), Prefix + strings.Repeat("0", 39),
	} {
		if IDOf(bad) != "" {
			t.Errorf("%q has an id", bad)
		}
		if _, err := node.Verify(t.Context(), bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "a", strings.Repeat("a", 15), strings.Repeat("a", 17), strings.Repeat("A", 16), strings.Repeat("1", 16), "aaaaaaa/aaaaaaaa", "aaaaaaaaaaaaaaa\n", "\naaaaaaaaaaaaaaa"} {
		if IsID(bad) {
			t.Errorf("%q is an id", bad)
		}
	}
}

// FuzzSecret: whatever is not exactly a secret has no id and opens nothing, and
// what has an id has the form that scanners look for.
func FuzzSecret(f *testing.F) {
	node := newNode(newStorage(f), newClock())
	_, good := create(f, node, deploy, MinLifetime)
	for _, seed := range []string{good, good[1:], good + "\x00", Prefix, "dpxy_ä", strings.Repeat("x", 10000), newSecret()} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, secret string) {
		id := IDOf(secret)
		if (id != "") != (scanner.MatchString(secret) && checksum(secret[:secretLen-sumLen]) == secret[secretLen-sumLen:]) || id != "" && !IsID(id) {
			t.Fatalf("%q: id %q", secret, id)
		}
		if _, err := node.Verify(t.Context(), secret); (err == nil) != (secret == good) {
			t.Fatalf("%q: %v", secret, err)
		}
		_, _, _ = decodeFile(IDOf(good), []byte(secret))
	})
}
