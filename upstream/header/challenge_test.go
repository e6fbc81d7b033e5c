package header

import (
	"reflect"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
)

func TestParseChallenges(t *testing.T) {
	for _, test := range []struct {
		name  string
		lines []string
		want  string // scheme{key=value|key=value} in the order of keys, one per word
	}{
		{"none", nil, ""},
		{"hub", []string{`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull"`},
			"bearer{realm=https://auth.docker.io/token|scope=repository:library/alpine:pull|service=registry.docker.io}"},
		{"blanks", []string{"  bearer \t realm = \"r\" ,\tservice= s  "}, "bearer{realm=r|service=s}"},
		{"case", []string{`BEARER Realm="R",SERVICE=S`}, "bearer{realm=R|service=S}"},
		{"commas and escapes", []string{`Bearer scope="a,b=\"c\"\\",realm="r"`}, `bearer{realm=r|scope=a,b="c"\}`},
		{"several in a line", []string{`Negotiate, Basic realm="x, y", Bearer realm="r",service="s"`},
			"negotiate{} basic{realm=x, y} bearer{realm=r|service=s}"},
		{"several lines", []string{`Basic realm="x"`, `Bearer realm="r"`}, "basic{realm=x} bearer{realm=r}"},
		{"token68", []string{`Negotiate YWJj/+==, Bearer realm="r"`}, "negotiate{} bearer{realm=r}"},
		{"empty elements", []string{`, ,Bearer realm="r",,service="s",`}, "bearer{realm=r|service=s}"},
		{"unquoted URL", []string{`Bearer realm=https://h/t?x=1,service=s`}, "bearer{realm=https://h/t?x=1|service=s}"},
		{"repeated parameter", []string{`Bearer realm="one",realm="two"`}, "bearer{realm=one}"},
		{"empty value", []string{`Bearer realm="",service=""`}, "bearer{realm=|service=}"},
		{"unterminated", []string{`Basic realm="x", Bearer realm="r`, `Digest a=b`}, "basic{realm=x} digest{a=b}"},
		{"escape at the end", []string{`Bearer realm="r\`}, ""},
		{"garbage after a value", []string{`Bearer realm="r"x`}, ""},
		{"garbage", []string{`"Bearer" realm="r"`, `=`, `Bearer/x realm="r"`}, ""},
		{"too long", []string{`Bearer realm="` + strings.Repeat("r", maxChallengeLine) + `"`, `Basic`}, "basic{}"},
	} {
		var got []string
		for _, c := range ParseChallenges(test.lines) {
			var pairs []string
			for _, key := range []string{"a", "realm", "scope", "service"} {
				if value, ok := c.Params[key]; ok {
					pairs = append(pairs, key+"="+value)
				}
			}
			got = append(got, c.Scheme+"{"+strings.Join(pairs, "|")+"}")
		}
		if joined := strings.Join(got, " "); joined != test.want {
			t.Errorf("%s: got %s, want %s", test.name, joined, test.want)
		}
	}
}

// FuzzParseChallenges checks that any input results in well-formed challenges, and
// that these are parsed equally after being formatted.
func FuzzParseChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://auth.docker.io/token",service="registry.docker.io"`)
	f.Add(`Negotiate YWJj==, Basic realm="x, y\"", Bearer realm=r , service = "s"`)
	f.Add(`, ,a b=c,d="e`)
	f.Add(`a b==,c`)
	f.Add(`Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:user/image:pull"`)
	f.Add(`Basic realm="x" Bearer realm="r",scope="registry:catalog:* repository:a:push,pull"`)
	f.Add(`Bearer realm="r\",service=,scope=repository:..:pull`)
	f.Fuzz(func(t *testing.T, line string) {
		found := ParseChallenges([]string{line})
		if len(found) > maxChallenges {
			t.Fatalf("got %d challenges, want at most %d", len(found), maxChallenges)
		}
		var b strings.Builder
		for _, c := range found {
			if c.Scheme == "" || c.Scheme != strings.ToLower(c.Scheme) || c.Params == nil {
				t.Fatalf("got challenge %+v, want a scheme in lower case and parameters", c)
			}
			b.WriteString(c.Scheme)
			separator := " "
			for key, value := range c.Params {
				b.WriteString(separator + key + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`)
				separator = ", "
			}
			// What is asked for is one repository, to pull, whatever the challenge names.
			if name := PullScope(c.Params["scope"]); name != "" && !reference.ValidRepository(name) {
				t.Fatalf("PullScope(%q) = %q, want a repository", c.Params["scope"], name)
			}
			b.WriteString(", ")
		}
		if b.Len() > maxChallengeLine {
			t.Skip("the line is too long with escapes")
		}
		if again := ParseChallenges([]string{b.String()}); len(found)+len(again) > 0 && !reflect.DeepEqual(found, again) {
			t.Fatalf("parsing %q: got %+v, want %+v as for %q", b.String(), again, found, line)
		}
	})
}

func TestPullScope(t *testing.T) {
	for scope, want := range map[string]string{
		"repository:a/b:pull":                  "a/b",
		"repository:a:push,pull":               "a",
		"registry:catalog:* repository:a:pull": "a",
		"repository:a:pull repository:b:pull":  "a",
		"":                                     "",
		"repository:a":                         "",
		"repository::pull":                     "",
		"repository:a:push":                    "",
		"repository:a:*":                       "",
		"repository(plugin):a:pull":            "",
		"repository:A:pull":                    "",
		"repository:../a:pull":                 "",
		"repository:a:b:pull":                  "",
		"repository:" + strings.Repeat("a", 256) + ":pull":  "",
		"repository:" + strings.Repeat("a", 255) + ":pull":  strings.Repeat("a", 255),
		"repository:a&scope=repository:b:pull":              "",
		"repository:a\x00:pull":                             "",
		"registry:catalog:*":                                "",
		"repository:host:5000/a:pull":                       "",
		"repository:a:delete repository:b:pull,push,delete": "b",
	} {
		if got := PullScope(scope); got != want {
			t.Errorf("PullScope(%q) = %q, want %q", scope, got, want)
		}
	}
}
