package caddymodule

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// documentation returns the user documentation by file name.
func documentation(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob("../docs/*.md")
	if err != nil || len(names) < 6 {
		t.Fatalf("found the pages %v in docs (error: %v), want at least 6", names, err)
	}
	pages := make(map[string]string)
	for _, name := range append(names, "../README.md", "../CONTRIBUTING.md", "../CHANGELOG.md", "../bench/README.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		pages[name] = string(text)
	}
	return pages
}

// shortened replaces what examples leave out.
var shortened = strings.NewReplacer(
	"$2a$14$...", "$2a$12$GdZKEFjGSS9j/oSlUJlJTOcpy7uak84CdUCLnzP6lEpi/bHWBv45W",
	"provider example { ... }", "provider scribbler on", // a provider for tests
	"hash scrypt", "hash bcrypt", // which Caddy does not include
	" exec ", " test_notes ", // a handler of events for tests
)

// TestDocumentationExamplesAreValid checks that each Caddyfile that the
// documentation shows can be adapted.
func TestDocumentationExamplesAreValid(t *testing.T) {
	pages := documentation(t)
	examples := make(map[string]int)
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		for _, example := range caddyfilesIn(pages[name]) {
			examples[filepath.Base(name)]++
			if err := adaptExample(example); err != "" {
				t.Errorf("%s: got error %s, want none\n%s", name, err, example)
			}
		}
	}
	for name, want := range map[string]int{"README.md": 2, "accounts.md": 9, "clients.md": 1, "cluster.md": 5, "configuration.md": 6, "observability.md": 4, "operations.md": 1} {
		if examples[name] < want {
			t.Errorf("found %d examples in %s, want at least %d", examples[name], name, want)
		}
	}
}

// adaptExample returns the error of an example: of a whole Caddyfile, of its
// global options, or of lines of the directive.
func adaptExample(example string) string {
	directive := shortened.Replace(example)
	switch {
	case strings.HasPrefix(directive, "{"):
		return adaptError(directive + "\n:80 {\n respond ok\n}\n")
	case strings.HasPrefix(directive, "registry.example.com"), strings.HasPrefix(directive, ":"):
		return adaptError(directive)
	case !strings.HasPrefix(directive, "dependency_proxy {"):
		directive = "dependency_proxy {\n group acme {\n  members alice\n }\n" + directive + "}\n"
	}
	return adaptError(":80 {\n" + directive + "}\n")
}

func adaptError(caddyfile string) string {
	if _, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil); err != nil {
		return err.Error()
	}
	return ""
}

var (
	codeBlock    = regexp.MustCompile(`(?m)(^    .*\n(?:\n?    .*\n)*)`)
	exampleStart = regexp.MustCompile(`^user\b|\{\s*(#.*)?$`)
)

// caddyfilesIn returns the Caddyfiles in the indented blocks of a Markdown text.
// A block may also contain other lines, such as commands.
func caddyfilesIn(text string) (found []string) {
	for _, block := range codeBlock.FindAllString(text, -1) {
		var example strings.Builder
		depth, empty := 0, true // except for comments
		end := func() {
			if !empty {
				found = append(found, example.String())
			}
			example.Reset()
			empty = true
		}
		for line := range strings.Lines(block) {
			line = strings.TrimPrefix(line, "    ")
			code, _, _ := strings.Cut(line, "#")
			words := strings.Fields(code)
			if depth == 0 && len(words) > 0 && !exampleStart.MatchString(strings.TrimSpace(line)) {
				end()
				continue
			}
			if len(words) > 0 && words[len(words)-1] == "{" {
				depth++
			}
			if len(words) == 1 && words[0] == "}" {
				depth--
			}
			empty = empty && len(words) == 0
			example.WriteString(line)
		}
		end()
	}
	return found
}

// TestConfigurationPageHasEveryLine checks that docs/configuration.md has each
// line that a block of the directive accepts. The error about an unknown line
// lists them.
func TestConfigurationPageHasEveryLine(t *testing.T) {
	accepted := regexp.MustCompile(`write one of (.*), at Caddyfile`)
	page := documentation(t)["../docs/configuration.md"]
	for block, lines := range map[string]string{
		"## The site":        "unknown",
		"## storage":         "storage filesystem {\n unknown\n}",
		"### s3":             "storage s3 {\n unknown\n}",
		"### static":         "directory static {\n unknown\n}",
		"### gitlab":         "directory gitlab https://gitlab.example.com {\n unknown\n}",
		"### oidc":           "directory oidc https://issuer.example.com {\n unknown\n}",
		"### ldap":           "directory ldap ldaps://ldap.example.com {\n unknown\n}",
		"### authentication": "directory authentication {\n unknown\n}",
		"## group":           "group acme {\n unknown\n}",
		"## upstream":        "upstream docker.io {\n unknown\n}",
		"### downloads":      "upstream docker.io {\n downloads {\n  unknown\n }\n}",
		"## token":           "token {\n unknown\n}",
		"## peers":           "peers {\n unknown\n}",
	} {
		found := accepted.FindStringSubmatch(adaptError(":80 {\ndependency_proxy {\n" + lines + "\n}\n}\n"))
		if found == nil {
			t.Errorf("%s: got no list of lines in the error about an unknown line, want one", block)
			continue
		}
		_, section, ok := strings.Cut(page, "\n"+block+"\n")
		if !ok {
			t.Errorf("configuration.md has no section %q", block)
		}
		if next := regexp.MustCompile(`(?m)^##`).FindStringIndex(section); next != nil {
			section = section[:next[0]]
		}
		for _, line := range strings.Split(found[1], ", ") {
			if !strings.Contains(section, "| `"+line+" ") && !strings.Contains(page, "\n## "+line+"\n") && line != "name" {
				t.Errorf("%s in configuration.md does not document the line %q", block, line)
			}
		}
	}
}

var (
	pageLink = regexp.MustCompile(`\]\(([^):]*)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// anchors returns the targets that GitHub makes of a page's headings.
func anchors(page string) []string {
	var all []string
	for _, found := range heading.FindAllStringSubmatch(page, -1) {
		all = append(all, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case strings.ContainsRune(":,.'`()/", r):
				return -1
			}
			return r
		}, strings.ToLower(found[1])))
	}
	return all
}

// TestDocumentationLinksLeadSomewhere checks that the links between the pages,
// with their anchors, and to other files of the repository have a target.
func TestDocumentationLinksLeadSomewhere(t *testing.T) {
	pages := documentation(t)
	for name, text := range pages {
		for _, link := range pageLink.FindAllStringSubmatch(text, -1) {
			file, anchor, _ := strings.Cut(link[1], "#")
			target := name
			if file != "" {
				target = filepath.Join(filepath.Dir(name), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: the link %s leads nowhere: %v", name, link[1], err)
			} else if page, ok := pages[target]; ok && anchor != "" && !slices.Contains(anchors(page), anchor) {
				t.Errorf("%s: the link %s names no heading of %s", name, link[1], target)
			}
		}
	}
}
