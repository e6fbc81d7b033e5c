package page

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/usage"
)

var errNotSealed = errors.New("not sealed")

// sealer seals a text as the number of its entry in a table.
type sealer struct{ sealed []string }

func (s *sealer) Seal(_ context.Context, text string, bound ...string) (string, error) {
	s.sealed = append(s.sealed, text+" "+strings.Join(bound, " "))
	return fmt.Sprint("sealed ", len(s.sealed)-1), nil
}

func (s *sealer) Open(_ context.Context, sealed string, bound ...string) (string, error) {
	for i, text := range s.sealed {
		if text, ok := strings.CutSuffix(text, " "+strings.Join(bound, " ")); ok && sealed == fmt.Sprint("sealed ", i) {
			return text, nil
		}
	}
	return "", errNotSealed
}

// TestGroupsList checks that an account sees its groups page by page and nothing of
// others, neither in the list nor in the position of the next page, which only the
// account itself can use.
func TestGroupsList(t *testing.T) {
	bob := access.Caller{Directory: "ldap"}
	bob.Name = "bob"
	declared, open := []string{"other/secret"}, []access.Group{{Path: "other/secret"}}
	for i := range 150 {
		path := fmt.Sprintf("open%03d", i)
		declared, open = append(declared, path), append(open, access.Group{Path: path, Visibility: directory.Public})
	}
	groups := Groups{Policy: access.NewPolicy(open, true, nil), Declared: declared, Sealer: new(sealer)}
	for i := range 250 {
		groups.Known = append(groups.Known, fmt.Sprintf("secret%03d", i))
	}
	var seen []string
	next := ""
	for pages := 0; ; pages++ {
		var s Site
		if err := groups.List(t.Context(), bob, next, &s); err != nil || pages > 10 {
			t.Fatalf("page %d: %v", pages, err)
		}
		if text, err := json.Marshal(s); err != nil || strings.Contains(string(text), "secret") || len(s.Groups) > groupsOnPage {
			t.Errorf("got %s, error %v; want at most %d groups that bob may read, and the name of no other", text, err, groupsOnPage)
		}
		for _, e := range s.Groups {
			seen = append(seen, e.Group)
		}
		if next = s.Next; next == "" {
			break
		}
	}
	if !slices.Equal(seen, declared[1:]) {
		t.Errorf("got the groups %q on all pages, want the 150 public ones", seen)
	}
	for _, position := range []string{"open100", "secret100", "sealed 99"} {
		if err := groups.List(t.Context(), bob, position, new(Site)); !errors.Is(err, errNotSealed) {
			t.Errorf("position %q: got the error %v, want %v", position, err, errNotSealed)
		}
	}
	eve := bob
	eve.Name = "eve"
	if err := groups.List(t.Context(), eve, "sealed 0", new(Site)); !errors.Is(err, errNotSealed) {
		t.Errorf("another account: got the error %v, want %v", err, errNotSealed)
	}
}

// TestGroupsListEnds checks that a group which the account may not read is no reason
// for a next page.
func TestGroupsListEnds(t *testing.T) {
	open := []access.Group{{Path: "secret"}}
	var declared []string
	for i := range groupsOnPage {
		path := fmt.Sprintf("open%03d", i)
		declared, open = append(declared, path), append(open, access.Group{Path: path, Visibility: directory.Public})
	}
	groups, s := Groups{Policy: access.NewPolicy(open, true, nil), Declared: append(declared, "secret"), Sealer: new(sealer)}, Site{}
	if err := groups.List(t.Context(), access.Caller{Directory: "ldap"}, "", &s); err != nil || len(s.Groups) != groupsOnPage || s.Next != "" {
		t.Errorf("got %d groups and the next page %q, error %v; want %d and none", len(s.Groups), s.Next, err, groupsOnPage)
	}
}

// TestGroupsListOfAdmin checks that an admin sees a group that does not exist any more,
// without a link to its page, which would be 404.
func TestGroupsListOfAdmin(t *testing.T) {
	groups := Groups{Policy: access.NewPolicy([]access.Group{{Path: "acme"}}, true, nil), Declared: []string{"acme"}, Known: []string{"acme", "former"}}
	admin := access.Caller{Directory: "static"}
	admin.Admin = true
	var s Site
	if err := groups.List(t.Context(), admin, "", &s); err != nil || s.Incomplete {
		t.Errorf("got the error %v, incomplete %v", err, s.Incomplete)
	}
	want := []Entry{{Group: "acme", Visibility: directory.Private, Access: "admin", Page: "/acme/dependency_proxy"}, {Group: "former", Access: "unknown group"}}
	if !slices.Equal(s.Groups, want) {
		t.Errorf("got the groups %+v, want %+v", s.Groups, want)
	}
}

// refs lists the refs of more images than a page of a group can show.
type refs struct{ store.Records }

func (refs) List(_ context.Context, _ string, visit func(store.Record) error) error {
	for i := range maxImages + 1 {
		if err := visit(store.Record{Key: fmt.Sprintf("refs/acme/_/hub/app/_/v%d", i), Used: now}); err != nil {
			return err
		}
	}
	return nil
}

func (refs) Load(context.Context, string) ([]byte, error) {
	return json.Marshal(index.Ref{Digest: digest.FromString("x"), Since: now})
}

// TestImagesListEnds checks that a list which is cut says so, and that its last page
// leads to no other.
func TestImagesListEnds(t *testing.T) {
	x := index.New(refs{})
	images := Images{
		Index: x, Recorder: usage.New(refs{}, x, nil),
		Name: func(scope, ref string) (string, bool) { return scope + ":" + ref, true },
		Size: func(context.Context, string, digest.Digest) int64 { return 1 },
	}
	for number, want := range map[int]Managed{
		1:                            {Page: 1, More: true},
		maxImages / imagesOnPage:     {Page: maxImages / imagesOnPage},
		maxImages/imagesOnPage + 100: {Page: maxImages/imagesOnPage + 100},
	} {
		var m Managed
		if err := images.List(t.Context(), "acme", number, &m); err != nil {
			t.Fatal(err)
		}
		if m.Page != want.Page || m.More != want.More || !m.Cut || m.Pages != maxImages/imagesOnPage || (len(m.Images) == 0) != (number > m.Pages) {
			t.Errorf("page %d: got page %d of %d with %d images, more %v, cut %v", number, m.Page, m.Pages, len(m.Images), m.More, m.Cut)
		}
	}
}
