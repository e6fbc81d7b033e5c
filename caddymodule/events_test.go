package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func init() { caddy.RegisterModule(new(eventNotes)) }

// eventNotes is an event handler that keeps the events of this plugin.
type eventNotes struct {
	As string `json:"as,omitempty"` // names the configuration
}

var (
	notesMu sync.Mutex
	notes   []string // an event with its data in the order of the keys, as "AS NAME KEY=VALUE …"
)

func (*eventNotes) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test_notes", New: func() caddy.Module { return new(eventNotes) }}
}

func (n *eventNotes) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.NextArg() {
		return d.ArgErr()
	}
	n.As = d.Val()
	d.RemainingArgs()
	return nil
}

func (n *eventNotes) Handle(_ context.Context, e caddy.Event) error {
	if e.Origin() == nil || e.Origin().CaddyModule().ID != "http.handlers.dependency_proxy" {
		return nil
	}
	note := n.As + " " + e.Name()
	for _, key := range slices.Sorted(maps.Keys(e.Data)) {
		note += fmt.Sprintf(" %s=%v", key, e.Data[key])
	}
	notesMu.Lock()
	defer notesMu.Unlock()
	notes = append(notes, note)
	return nil
}

// notedEvents returns the events since the start of the test with a prefix.
func notedEvents(prefix string) []string {
	notesMu.Lock()
	defer notesMu.Unlock()
	return slices.DeleteFunc(slices.Clone(notes), func(note string) bool { return !strings.HasPrefix(note, prefix) })
}

// noteEvents subscribes a handler to all events from the next load on.
func noteEvents(s *sitetest.Site, as string) {
	notesMu.Lock()
	defer notesMu.Unlock()
	notes = nil
	s.Globals = "events {\n on * test_notes " + as + "\n}"
}

// expectEvents waits for the events with a prefix and compares them.
func expectEvents(t *testing.T, prefix string, want ...string) {
	t.Helper()
	sitetest.Eventually(t, fmt.Sprintf("%d events %s", len(want), prefix), func() bool { return len(notedEvents(prefix)) >= len(want) })
	if got := notedEvents(prefix); !slices.Equal(got, want) {
		t.Errorf("got events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestEventsOfPulls checks the events of tags and of the storage.
func TestEventsOfPulls(t *testing.T) {
	up := registrytest.New(t)
	first := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100_000))
	s := sitetest.NewSite(t)
	noteEvents(s, "one")
	s.Load("name main", sitetest.Users("alice"), "group acme {\n members alice\n quota 150kB\n}\n", sitetest.Hub(up, "fresh_for 1ns"))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	second := up.PutImage("library/alpine", "3.20", sitetest.Random(2, 100_000))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	expectEvents(t, "one tag_moved", fmt.Sprintf("one tag_moved digest=%s group=acme media_type=%s previous=%s repository=library/alpine site=main tag=3.20 upstream=docker.io",
		second.Manifest, "application/vnd.oci.image.manifest.v1+json", first.Manifest))
	sitetest.Eventually(t, "the quota is applied", func() bool { return len(notedEvents("one quota_trimmed bytes=")) > 0 })
	if note := notedEvents("one quota_trimmed")[0]; !strings.Contains(note, " group=acme links=") || !strings.HasSuffix(note, " site=main") {
		t.Errorf("got event %s, want one of the group", note)
	}

	damaged := second.Layers[0]
	if err := os.WriteFile(s.BlobFile(damaged), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Get(sitetest.BlobPath("acme", "alpine", damaged), sitetest.As("alice")).Content(t, sitetest.Random(2, 100_000))
	sitetest.Eventually(t, "the damage is reported", func() bool { return len(notedEvents("one content_damaged")) > 0 })
	if note := notedEvents("one content_damaged")[0]; !strings.Contains(note, " digest="+string(damaged)+" error=") || !strings.HasSuffix(note, " site=main storage=filesystem "+s.Cache) {
		t.Errorf("got event %s, want one of the blob", note)
	}

	spool := filepath.Join(s.Cache, "tmp")
	if err := os.RemoveAll(spool); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(spool, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(spool) })
	for i := range 3 {
		other := up.PutBlob("library/alpine", sitetest.Random(byte(3+i), 2000))
		s.Get(sitetest.BlobPath("acme", "alpine", other), sitetest.As("alice")).Content(t, sitetest.Random(byte(3+i), 2000))
	}
	sitetest.Eventually(t, "the failure is reported", func() bool { return len(notedEvents("one storage_failing")) > 0 })
	if got := notedEvents("one storage_failing"); len(got) != 1 || !strings.Contains(got[0], " operation=") {
		t.Errorf("got events %q, want one with the operation", got)
	}
}

// TestEventsOfTokens checks that the events of access tokens are emitted once by each
// handler of their site, and by the running configuration only, over reloads.
func TestEventsOfTokens(t *testing.T) {
	up := registrytest.New(t)
	s := sitetest.NewSite(t)
	s.OpenAdmin()
	lines := []string{"name main", sitetest.Users("alice"), "group acme {\n owners alice\n}\n", sitetest.Hub(up)}
	noteEvents(s, "one")
	s.Load(lines...)
	secret, id := s.CreateToken("--group", "acme", "--name", "ci")
	made := " token_made access_token=%s account= by=admin API directory= groups=acme kind=deploy made_with= name=ci site=main"
	expectEvents(t, "", "one"+fmt.Sprintf(made, id))

	// A configuration that cannot be started emits nothing, and the running one goes
	// on.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s.Globals = "events {\n on * test_notes rejected\n}"
	s.After = "http://" + taken.Addr().String() + " {\n bind 127.0.0.1\n respond ok\n}"
	if err := s.TryLoad(lines...); err == nil {
		t.Fatal("got no error for a port that is taken, want one")
	}
	s.After = ""
	_, other := s.CreateToken("--group", "acme", "--name", "ci")
	expectEvents(t, "", "one"+fmt.Sprintf(made, id), "one"+fmt.Sprintf(made, other))

	// After a reload, the new configuration emits, and only it.
	noteEvents(s, "two")
	s.Load(append(lines, "token {\n lifetime 1h\n}")...)
	s.MustCommand("token", "revoke", secret)
	expectEvents(t, "", "two"+strings.Replace(fmt.Sprintf(made, id), "token_made", "token_revoked", 1))

	// Revoking it again changes nothing. What was made with a token ends with it.
	s.Ask(http.MethodDelete, sitetest.AdminTokens+"/"+id, "").Expect(t, http.StatusOK, "")
	personal, personalID := s.CreateToken("--account", "alice", "--scope", "manage")
	var child admin.CreatedToken
	answer := s.Get("/acme/dependency_proxy/tokens", sitetest.Basic("", personal), sitetest.JSONBody(http.MethodPost, `{"name":"child","lifetime":"1h"}`)).Expect(t, http.StatusCreated, "")
	if err := json.Unmarshal(answer.Data, &child); err != nil {
		t.Fatal(err)
	}
	s.AddSecrets(child.Secret)
	s.MustCommand("token", "revoke", personalID)
	expectEvents(t, "two token_revoked", "two"+strings.Replace(fmt.Sprintf(made, id), "token_made", "token_revoked", 1),
		fmt.Sprintf("two token_revoked access_token=%s account=alice by=admin API directory=static groups= kind=personal made_with= name= site=main", personalID),
		fmt.Sprintf("two token_revoked access_token=%s account= by=admin API directory= groups=acme kind=deploy made_with=%s name=child site=main", child.ID, personalID))
	for _, note := range notedEvents("") {
		if strings.Contains(note, secret) || strings.Contains(note, personal) || strings.Contains(note, child.Secret) {
			t.Errorf("got a secret in the event %s", note)
		}
	}
}

// TestEventsOfUpstreams checks that the state of an upstream, which outlives a reload,
// is reported by the running configuration: for each login that is used there.
func TestEventsOfUpstreams(t *testing.T) {
	up := registrytest.New(t)
	for _, image := range []string{"a", "b", "c"} {
		up.PutImage("library/"+image, "1", sitetest.Random(1, 100))
	}
	s := sitetest.NewSite(t)
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"),
		"group other {\n members alice\n upstream docker.io {\n " + sitetest.HubCredentials(t) + "\n }\n}\n", sitetest.Hub(up, "fresh_for 1ns")}
	noteEvents(s, "one")
	s.Load(lines...)
	up.Fail(registrytest.Failure{Status: http.StatusServiceUnavailable})
	for _, image := range []string{"a", "b", "c", "a", "b"} {
		s.Get(sitetest.ManifestPath("acme", image, "1"), sitetest.As("alice"))
	}
	where := " login=common site= upstream=docker.io"
	sitetest.Eventually(t, "the outage is reported", func() bool { return len(notedEvents("one")) > 0 })
	if got := notedEvents(""); len(got) != 1 || !strings.HasPrefix(got[0], "one upstream_down endpoint="+up.Host()+" error=") || !strings.HasSuffix(got[0], where) {
		t.Errorf("got events %q, want one about the outage", got)
	}

	noteEvents(s, "two")
	s.Load(append(lines, "token {\n lifetime 1h\n}")...)
	up.Heal()
	up.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("RateLimit-Limit", "100;w=21600")
		w.Header().Set("RateLimit-Remaining", "7;w=21600")
		return false
	})
	sitetest.Eventually(t, "the upstream is asked again", func() bool {
		s.Get(sitetest.ManifestPath("acme", "a", "1"), sitetest.As("alice"))
		return len(notedEvents("two")) >= 2
	})
	expectEvents(t, "two upstream_up", "two upstream_up endpoint="+up.Host()+where)
	expectEvents(t, "two budget_low", "two budget_low endpoint="+up.Host()+" limit=100 login=common remaining=7 site= upstream=docker.io window=6h0m0s")
	expectEvents(t, "one")
	s.Get(sitetest.ManifestPath("other", "a", "1"), sitetest.As("alice"))
	sitetest.Eventually(t, "the budget of the other login is reported", func() bool { return len(notedEvents("two budget_low")) == 2 })
	if got := notedEvents("two budget_low")[1]; !strings.Contains(got, " login=other ") {
		t.Errorf("got event %s, want one of the login of the group", got)
	}
}
