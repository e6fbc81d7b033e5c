package gitlab

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
)

// TestDirectoryLimitsGroupQuestions: questions about unknown groups are limited, those about
// known ones are not.
func TestDirectoryLimitsGroupQuestions(t *testing.T) {
	g, _, _ := gitlabtest.NewAcme(t)
	d := open(t, g, "")
	for range 2 {
		if _, err := d.VisibilityOf(t.Context(), "acme"); err != nil {
			t.Fatal(err)
		}
	}
	d.questions.accounts.SetLimit(0)
	refused := 0
	for i := range 200 {
		if _, err := d.VisibilityOf(t.Context(), "none-"+strings.Repeat("x", i)); err != nil && strings.Contains(err.Error(), "too many unknown groups") {
			refused++
		}
	}
	if asked := g.Asked("/api/v4/groups/{group}"); refused < 100 || refused+asked != 201 {
		t.Errorf("got %d refused and %d asked, want at least 100 refused and 201 in all", refused, asked)
	}
	if v, err := d.VisibilityOf(t.Context(), "acme"); err != nil || v != directory.Private {
		t.Errorf("a known group: got %q, %v, want private", v, err)
	}
}

// TestGroupQuestionsAllow: anonymous clients at many addresses are limited together, and
// leave the share of the accounts.
func TestGroupQuestionsAllow(t *testing.T) {
	q := newGroupQuestions()
	allowed := func(a directory.Asker) bool { return q.allow(directory.WithAsker(t.Context(), a)) }
	passed := 0
	for i := range 2000 {
		if allowed(directory.Asker{Subnet: fmt.Sprintf("192.0.2.%d", i%200)}) {
			passed++
		}
	}
	if passed < int(anonymousBurst) || passed > int(anonymousBurst)+20 {
		t.Errorf("anonymous callers were allowed %d questions at once, want about %v", passed, anonymousBurst)
	}
	for i := range int(accountsBurst) {
		if !allowed(directory.Asker{Directory: "gitlab", Name: fmt.Sprint("user-", i)}) {
			t.Errorf("account %d was refused a question", i)
		}
	}
	// The same name in another directory is another account.
	q = newGroupQuestions()
	for range int(askerBurst) + 5 {
		allowed(directory.Asker{Directory: "gitlab", Name: "alice"})
		allowed(directory.Asker{Subnet: "192.0.2.1"})
	}
	if !allowed(directory.Asker{Directory: "ldap", Name: "alice"}) || allowed(directory.Asker{Directory: "gitlab", Name: "alice"}) {
		t.Error("accounts are not told apart by directory and name")
	}
	if allowed(directory.Asker{Subnet: "192.0.2.1"}) || !allowed(directory.Asker{Subnet: "192.0.2.2"}) {
		t.Error("anonymous clients are not told apart by their subnets")
	}
}

// TestDirectoryExcludesGroups checks that a group outside the patterns does not exist.
func TestDirectoryExcludesGroups(t *testing.T) {
	g, _, _ := gitlabtest.NewAcme(t)
	d := open(t, g, "")
	d.Groups = []string{"acme"}
	if _, err := d.VisibilityOf(t.Context(), "open"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}
