package reference

import (
	"regexp"
	"strings"
	"testing"
)

// The regular expressions of distribution-spec v1.1, "Pulling manifests".
var (
	specName = regexp.MustCompile(`\A[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*\z`)
	specTag  = regexp.MustCompile(`\A[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\z`)
)

var nameSeeds = []string{
	"", "a", "alpine", "library/alpine", "a/b/c", "a.b", "a_b", "a__b", "a___b", "a-b", "a----b", "a._b", "a.-b", "a..b",
	"-a", "a-", "a/", "/a", "a//b", "A", "a/B", "a b", "a\x00", "a/../b", ".", "..", "a/.b", "a/b_", "a/b__", "é", "a:b", "a@b", "a%2fb",
	"latest", "_x", ".x", "V1.0-rc.1", "x y", "x\n",
}

func TestValidRepositoryAndTag(t *testing.T) {
	seeds := append([]string{}, nameSeeds...)
	for _, n := range []int{127, 128, 129, 254, 255, 256} {
		seeds = append(seeds, strings.Repeat("a", n))
	}
	for _, s := range seeds {
		checkAgainstSpec(t, s)
	}
}

func FuzzValidRepositoryAndTag(f *testing.F) {
	for _, s := range nameSeeds {
		f.Add(s)
	}
	f.Fuzz(checkAgainstSpec)
}

func checkAgainstSpec(t *testing.T, s string) {
	if got, want := ValidRepository(s), len(s) <= 255 && specName.MatchString(s); got != want {
		t.Errorf("ValidRepository(%q) = %v, want %v as in the specification", s, got, want)
	}
	if got, want := ValidTag(s), specTag.MatchString(s); got != want {
		t.Errorf("ValidTag(%q) = %v, want %v as in the specification", s, got, want)
	}
}

func TestParseDigest(t *testing.T) {
	hex := strings.Repeat("0123456789abcdef", 8)
	for _, test := range []struct {
		digest string
		valid  bool
	}{
		{"sha256:" + hex[:64], true},
		{"sha512:" + hex, true},
		{"sha256:" + hex[:63], false},
		{"sha256:" + hex[:65], false},
		{"sha256:" + strings.ToUpper(hex[:64]), false},
		{"sha256:" + strings.Repeat("g", 64), false},
		{"SHA256:" + hex[:64], false},
		{"sha512:" + hex[:64], false},
		{"sha384:" + hex[:96], false},
		{"md5:" + hex[:32], false},
		{"sha256+b64u:" + hex[:64], false},
		{hex[:64], false},
		{"sha256:", false},
		{"", false},
	} {
		d, err := ParseDigest(test.digest)
		if (err == nil) != test.valid || test.valid && string(d) != test.digest {
			t.Errorf("ParseDigest(%q) = %q, %v, want valid %v", test.digest, d, err, test.valid)
		}
	}
}

func TestNormalizeRepository(t *testing.T) {
	for _, test := range [][3]string{
		{"docker.io", "alpine", "library/alpine"},
		{"docker.io", "grafana/loki", "grafana/loki"},
		{"ghcr.io", "alpine", "alpine"},
	} {
		if got := NormalizeRepository(test[0], test[1]); got != test[2] {
			t.Errorf("NormalizeRepository(%q, %q) = %q, want %q", test[0], test[1], got, test[2])
		}
	}
}
