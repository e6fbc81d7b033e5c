package page

import (
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/health"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/usage"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

var update = flag.Bool("update", false, "write the golden files")

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// group returns the page of a group for a maintainer, in which name stands for all
// names that come from others.
func group(name string) *Group {
	digest := "sha256:" + strings.Repeat("ab", 32)
	return &Group{
		Group: "acme/" + name, Visibility: directory.Private, Registry: "registry.example.com", Prefix: "registry.example.com/acme/" + name + "/dependency_proxy/containers",
		Account: "static:" + name, Access: "maintainer", Upstreams: []string{"docker.io", name}, DefaultUpstream: "docker.io",
		Limits: []string{"group acme: allow docker.io/" + name}, Scheme: "https", Example: "alpine:latest", Now: now,
		Managed: &Managed{
			Usage:  &admin.GroupUsage{Bytes: 3 << 20, Blobs: 7, Quota: 16 << 20, Measured: now},
			Images: []Image{{Name: "acme/" + name + "/dependency_proxy/containers/" + name + ":1", Digest: digest, Since: now.Add(-49 * time.Hour), Pulled: now, Size: 5 << 20}},
			More:   true, Page: 2, Pages: 3, Days: days(),
		},
	}
}

// days returns two days of traffic.
func days() []usage.Day {
	return []usage.Day{
		{Date: "2026-02-28", Traffic: usage.Traffic{Served: 100 << 20, Fetched: 1}},
		{Date: "2026-03-01", Traffic: usage.Traffic{Served: 10 << 20}},
	}
}

// site returns the page of a site for an admin.
func site(name string) *Site {
	return &Site{
		Registry: "registry.example.com", Account: "static:" + name, Now: now, Next: "acme/" + name, Incomplete: true,
		Groups: []Entry{
			{Group: "acme", Visibility: directory.Private, Access: "admin", Page: "/acme/dependency_proxy", Usage: &admin.GroupUsage{Bytes: 1 << 20, Quota: 1 << 30}},
			{Group: "acme/" + name, Access: name, Page: "/acme/" + name + "/dependency_proxy"},
			{Group: "former", Access: "unknown group"},
		},
		SiteManaged: &SiteManaged{
			Stored: Stored{Bytes: 3 << 20, Blobs: 7, Limit: 16 << 20},
			Health: health.Report{
				Storage:     &health.Part{Name: "filesystem " + name, Status: health.OK},
				Directories: []health.Part{{Name: name, Status: health.Unavailable, Error: "dial " + name}},
			},
			Upstreams: []health.Upstream{
				{Name: name, Host: name, Login: "common", State: "up"},
				{Name: name, Host: name, Login: "common", State: "offline"},
				health.NewUpstream("acme/"+name, upstream.State{
					Upstream: name, Host: name, Down: true, DownSince: now, Until: now.Add(time.Minute), LastError: "dial " + name, LastErrorAt: now,
					Budget: ratelimit.Budget{Limit: 100, Remaining: 12, Window: 6 * time.Hour, Source: name, Seen: now}, PullsWaiting: 3,
				}, now),
			},
			Fills: []admin.FillStatus{{Digest: "sha256:" + name, Size: -1, Written: 1 << 20, Readers: 2, Since: now.Add(-time.Minute)}},
			Days:  days(),
			Peers: &peers.State{Error: "lookup " + name, Nodes: []peers.NodeState{
				{Name: name + ":8443", State: peers.Self, Answered: now},
				{Name: name + ":8444", State: peers.Failing, Answered: now, Until: now.Add(time.Second), Error: "status " + name},
				{Name: name + ":8445", State: peers.Down, Error: "dial " + name},
			}},
		},
	}
}

// member returns the page of a group for a member.
func member() *Group {
	g := group("platform")
	g.Managed, g.Access = nil, "member"
	return g
}

func parse(t *testing.T, v View) (*html.Node, string) {
	t.Helper()
	text, err := HTML(v)
	if err != nil {
		t.Fatal(err)
	}
	root, err := html.Parse(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return root, string(text)
}

// TestHTML compares the structure of the pages, as a screen reader announces it, with
// golden files: landmarks, headings, labels, the headers of tables and links.
func TestHTML(t *testing.T) {
	empty := group("platform")
	empty.Managed = &Managed{Page: 1, Pages: 1, Days: []usage.Day{{Date: "2026-03-01"}}}
	empty.Upstreams, empty.Limits = nil, nil
	for name, v := range map[string]View{
		"group-maintainer": group("platform"), "group-member": member(), "group-empty": empty,
		"site-admin": site("platform"), "site-nobody": &Site{Registry: "registry.example.com", Account: "ldap:eve", Now: now},
	} {
		root, _ := parse(t, v)
		got, file := outline(root, 0), filepath.Join("testdata", name+".txt")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || got != string(want) {
			t.Errorf("%s: got another structure, error %v; if it is right, write it with -update:\n%s", name, err, got)
		}
	}
}

// announced are the attributes that the structure of a page shows.
var announced = []string{"lang", "id", "href", "rel", "role", "aria-label", "aria-labelledby", "aria-current", "scope", "tabindex", "datetime", "min", "max", "low", "optimum", "value", "viewBox"}

// outline returns the elements below a node that are announced, with their texts.
func outline(n *html.Node, depth int) string {
	var b strings.Builder
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		switch c.DataAtom {
		case atom.Style, atom.Meta:
			continue
		}
		if c.Type == html.TextNode {
			if text := strings.Join(strings.Fields(c.Data), " "); text != "" {
				b.WriteString(strings.Repeat("  ", depth) + text + "\n")
			}
			continue
		}
		if c.Type != html.ElementNode || c.Data == "rect" || c.Data == "line" {
			continue
		}
		b.WriteString(strings.Repeat("  ", depth) + "<" + c.Data)
		for _, name := range announced {
			for _, a := range c.Attr {
				if a.Key == name {
					b.WriteString(" " + name + "=" + a.Val)
				}
			}
		}
		b.WriteString(">\n" + outline(c, depth+1))
	}
	return b.String()
}

// TestHTMLAccessible checks rules for all pages: one main landmark and one first
// heading, headings that skip no level, labels that exist, headers of tables with a
// scope, and areas that scroll and can be reached by the keyboard.
func TestHTMLAccessible(t *testing.T) {
	for name, v := range map[string]View{"group": group("platform"), "member": member(), "site": site("platform")} {
		root, _ := parse(t, v)
		count, ids, level := map[string]int{}, map[string]bool{}, 0
		var labels []string
		for n := range root.Descendants() {
			if n.Type != html.ElementNode {
				continue
			}
			count[n.Data]++
			attributes := map[string]string{}
			for _, a := range n.Attr {
				attributes[a.Key] = a.Val
			}
			if id := attributes["id"]; id != "" {
				if ids[id] {
					t.Errorf("%s: got the id %s twice", name, id)
				}
				ids[id] = true
			}
			if by := attributes["aria-labelledby"]; by != "" {
				labels = append(labels, by)
			}
			labelled := attributes["aria-labelledby"]+attributes["aria-label"] != ""
			switch {
			case n.Data == "th" && attributes["scope"] == "",
				(n.Data == "section" || n.Data == "nav" || n.Data == "meter" || attributes["role"] == "img") && !labelled,
				attributes["class"] == "scroll" && (attributes["tabindex"] != "0" || attributes["role"] != "region" || !labelled),
				n.Data == "script", attributes["style"] != "", attributes["src"] != "":
				t.Errorf("%s: got <%s %v>, which breaks a rule", name, n.Data, attributes)
			case len(n.Data) == 2 && n.Data[0] == 'h' && '1' <= n.Data[1] && n.Data[1] <= '6':
				if next := int(n.Data[1] - '0'); next > level+1 {
					t.Errorf("%s: got a heading of level %d after one of level %d", name, next, level)
				}
				level = int(n.Data[1] - '0')
			}
		}
		for _, label := range labels {
			if !ids[label] {
				t.Errorf("%s: no element has the id %s", name, label)
			}
		}
		if count["main"] != 1 || count["h1"] != 1 || count["header"] != 1 || count["title"] < 1 {
			t.Errorf("%s: got the elements %v, want one main, header and h1", name, count)
		}
	}
}

// TestHTMLEscapes checks that names from others cannot leave their place.
func TestHTMLEscapes(t *testing.T) {
	for _, name := range []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `</title><script>`, `</style><script>x`,
		`{{.Registry}}`, `javascript:alert(1)`, "\x00<b>", "]]><svg onload=alert(1)>", "&lt;b&gt;", "\u202e<i>",
	} {
		for _, v := range []View{group(name), site(name)} {
			want, _ := parse(t, map[bool]View{true: group("platform"), false: site("platform")}[v.template() == "group.html"])
			got, text := parse(t, v)
			if a, b := shape(got), shape(want); a != b {
				t.Errorf("%q changes the elements of a page:\n%s\nwant\n%s", name, a, b)
			}
			if strings.Contains(text, "ZgotmplZ") {
				t.Errorf("%q is not shown", name)
			}
		}
	}
}

// shape returns the elements of a page with the names of their attributes, and with
// the addresses of links as far as their first two slashes.
func shape(root *html.Node) string {
	var b strings.Builder
	for n := range root.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		b.WriteString(n.Data)
		for _, a := range n.Attr {
			b.WriteString(" " + a.Key)
			if a.Key == "href" {
				b.WriteString("=" + a.Val[:1])
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// TestSetHeaders checks that the policy permits the style sheet of all pages, by its
// hash, and nothing else.
func TestSetHeaders(t *testing.T) {
	h := http.Header{}
	SetHeaders(h)
	got := h.Get("Content-Security-Policy")
	if !strings.HasPrefix(got, "default-src 'none'; style-src 'sha256-") || strings.Contains(got, "unsafe") || strings.Count(got, "'none'") != 4 {
		t.Errorf("got the policy %q", got)
	}
	_, first := parse(t, site("platform"))
	_, second := parse(t, group("platform"))
	style := func(text string) string {
		_, rest, _ := strings.Cut(text, "<style>")
		style, _, _ := strings.Cut(rest, "</style>")
		return style
	}
	if style(first) == "" || style(first) != style(second) {
		t.Errorf("got the style sheets %q and %q, want the same", style(first), style(second))
	}
}

func TestWantsHTML(t *testing.T) {
	for accept, want := range map[string]bool{"": false, "*/*": false, "application/json": false, "text/html": true, "text/html,application/xhtml+xml,*/*;q=0.8": true} {
		r := &http.Request{Header: http.Header{"Accept": {accept}}}
		if WantsHTML(r) != want {
			t.Errorf("Accept %q: got %v, want %v", accept, !want, want)
		}
	}
}

func TestAgo(t *testing.T) {
	for passed, want := range map[time.Duration]string{
		-time.Hour: "just now", 0: "just now", 59 * time.Second: "just now", time.Minute: "1 minute ago", 3 * time.Hour: "3 hours ago",
		25 * time.Hour: "1 day ago", 29 * 24 * time.Hour: "29 days ago", 61 * 24 * time.Hour: "2 months ago", 800 * 24 * time.Hour: "2 years ago",
	} {
		if got := ago(now, now.Add(-passed)); got != want {
			t.Errorf("%v: got %q, want %q", passed, got, want)
		}
	}
}
