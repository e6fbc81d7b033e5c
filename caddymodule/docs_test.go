package caddymodule

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDocs: what the documentation shows of the Caddyfile is read without an
// error, so that nobody copies what is not true any more.
func TestDocs(t *testing.T) {
	const bcrypt = "$2a$12$GdZKEFjGSS9j/oSlUJlJTOcpy7uak84CdUCLnzP6lEpi/bHWBv45W"
	examples := 0
	for _, name := range []string{"../README.md", "../docs/accounts.md"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, example := range caddyfilesIn(string(text)) {
			examples++
			example = strings.NewReplacer("$2a$14$...", bcrypt, "{ ... }", "{\n}", "hash scrypt", "hash bcrypt").Replace(example)
			if !strings.Contains(example, "dependency_proxy {") {
				example = "dependency_proxy {\n group acme {\n members alice\n }\n" + example + "}\n"
			}
			if strings.HasPrefix(example, "registry.example.com {") {
				example = strings.TrimSuffix(strings.TrimSpace(strings.TrimPrefix(example, "registry.example.com {")), "}")
			}
			if got := adapt(example); !strings.HasPrefix(got, "{") {
				t.Errorf("%s: %s\n%s", name, got, example)
			}
		}
	}
	if examples < 9 {
		t.Errorf("only %d examples were found", examples)
	}
}

var (
	codeBlock = regexp.MustCompile(`(?m)(^    .*\n(?:\n?    .*\n)*)`)
	directive = regexp.MustCompile(`^(registry\.example\.com|dependency_proxy|user|directory)\b.*`)
)

// caddyfilesIn returns what of the indented blocks of a Markdown text is
// Caddyfile: other lines may stand between.
func caddyfilesIn(text string) (found []string) {
	for _, block := range codeBlock.FindAllString(text, -1) {
		var part strings.Builder
		depth := 0
		end := func() {
			if strings.Contains(part.String(), "{") {
				found = append(found, part.String())
			}
			part.Reset()
		}
		for line := range strings.Lines(block) {
			line = strings.TrimPrefix(line, "    ")
			code, _, _ := strings.Cut(line, "#")
			words := strings.Fields(code)
			if depth == 0 && len(words) > 0 && !directive.MatchString(line) {
				end()
				continue
			}
			if len(words) > 0 && words[len(words)-1] == "{" {
				depth++
			}
			if len(words) == 1 && words[0] == "}" {
				depth--
			}
			part.WriteString(line)
		}
		end()
	}
	return found
}
