package reference

import (
	"regexp"
	"strings"
	"testing"
)

// The regular expressions of distribution-spec v1.1, "Pulling manifests", and of
// image-spec v1.1, "Registered algorithms".
var (
	specName   = regexp.MustCompile(`\A[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*\z`)
	specDigest = regexp.MustCompile(`\A(sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})\z`)
	specTag    = regexp.MustCompile(`\A[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\z`)
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

func TestCanonicalRegistry(t *testing.T) {
	for _, test := range [][2]string{
		{"docker.io", "docker.io"},
		{"index.docker.io", "docker.io"},
		{"registry-1.docker.io", "docker.io"},
		{"registry.docker.io", "registry.docker.io"},
		{"ghcr.io", "ghcr.io"},
		{"", ""},
	} {
		if got := CanonicalRegistry(test[0]); got != test[1] {
			t.Errorf("CanonicalRegistry(%q) = %q, want %q", test[0], got, test[1])
		}
	}
}

// FuzzParseDigest checks that ParseDigest accepts the registered digests of
// image-spec v1.1, and returns them as they are.
func FuzzParseDigest(f *testing.F) {
	hex := strings.Repeat("0123456789abcdef", 8)
	for _, s := range []string{
		"sha256:" + hex[:64], "sha512:" + hex, "sha256:" + hex[:63], "sha512:" + hex[:64], "SHA256:" + hex[:64],
		"sha256:" + strings.ToUpper(hex[:64]), "sha256+b64u:" + hex[:64], "sha256::" + hex[:63], "sha256", ":", "", "sha256:" + hex[:63] + "\x00",
		"sha256:../" + hex[:61], "sha256%3A" + hex[:64], " sha256:" + hex[:64], "sha256:" + hex[:64] + "\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDigest(s)
		if want := specDigest.MatchString(s); (err == nil) != want {
			t.Errorf("ParseDigest(%q) = %q, %v, want valid %v as in the specification", s, d, err, want)
		}
		if err == nil && (string(d) != s || d.Validate() != nil) || err != nil && d != "" {
			t.Errorf("ParseDigest(%q) = %q, %v, want the same digest or an error", s, d, err)
		}
	})
}

// FuzzNormalizeRepository checks that a valid name stays valid, and that a second
// call changes nothing.
func FuzzNormalizeRepository(f *testing.F) {
	for _, s := range nameSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if !ValidRepository(name) || len(name) > maxRepository-len("library/") {
			return
		}
		got := NormalizeRepository("docker.io", name)
		if !ValidRepository(got) || NormalizeRepository("docker.io", got) != got || !strings.Contains(got, "/") {
			t.Errorf("NormalizeRepository(docker.io, %q) = %q, want a valid name with a slash that stays as it is", name, got)
		}
		if other := NormalizeRepository("ghcr.io", name); other != name {
			t.Errorf("NormalizeRepository(ghcr.io, %q) = %q, want it unchanged", name, other)
		}
	})
}
