package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
)

// probe returns the answer of the node at an address to a request.
func probe(s *sitetest.Site, method, address, path string) (status int, body string) {
	s.T.Helper()
	certificate, err := os.ReadFile(filepath.Join(s.Dir, "ca.pem"))
	if err != nil {
		s.T.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(s.T.Context(), method, "https://"+sitetest.ClusterHost+path, nil)
	if err != nil {
		s.T.Fatal(err)
	}
	resp, err := transport.RoundTrip(r)
	for tries := 0; sitetest.Repeats(tries, err); tries++ {
		resp, err = transport.RoundTrip(r)
	}
	if err != nil {
		s.T.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.T.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// count returns the number of nodes in each state that the first of the nodes sees.
func count(status []peers.NodeState) map[peers.Condition]int {
	counts := make(map[peers.Condition]int)
	for _, n := range status {
		counts[n.State]++
	}
	return counts
}

// TestNodesFindEachOther checks that nodes with the same list find each other and
// themselves, that the status, the page for admins and the metrics show it, and that a
// reload with the same settings keeps the process.
func TestNodesFindEachOther(t *testing.T) {
	s, addresses := sitetest.Nodes(t, 3, sitetest.Visible("open", directory.Public), sitetest.Users("alice"), "admins alice")
	s.Before = "handle /metrics {\n metrics\n}"
	s.OpenAdmin()
	lines := []string{sitetest.Visible("open", directory.Public), sitetest.Users("dave"), "admins dave"}
	s.Load(lines...)
	sitetest.Eventually(t, "the nodes have found each other", func() bool {
		for _, site := range s.Status().Sites {
			if site.Name == "nodes" && (count(site.Peers.Nodes)[peers.Up] != 2 || count(site.Peers.Nodes)[peers.Self] != 1) {
				return false
			}
		}
		return true
	})
	for _, site := range s.Status().Sites {
		if site.Name == "" && site.Peers != nil {
			t.Errorf("got %+v for a site without peers, want none", site.Peers)
		}
	}
	if out := s.MustCommand("status"); strings.Count(out, " self\n") != 3 || strings.Count(out, addresses[0]) < 3 {
		t.Errorf("got the nodes missing in the output:\n%s", out)
	}
	got := s.Scrape()
	for state, want := range map[peers.Condition]float64{peers.Self: 1, peers.Up: 2, peers.Failing: 0, peers.Down: 0} {
		series := `peers{site="nodes",state="` + string(state) + `"}`
		if value, ok := got[series]; !ok || value != want {
			t.Errorf("got %s %v (shown: %v), want %v", series, value, ok, want)
		}
	}
	before := ids(s, addresses)
	s.Load(lines...)
	if after := ids(s, addresses); after != before {
		t.Errorf("got the processes %s after a reload, want %s", after, before)
	}
	s.After = strings.ReplaceAll(s.After, "transport http {", "transport http {\n dial_timeout 1s")
	s.Load(lines...)
	if after := ids(s, addresses); after == before {
		t.Errorf("got the same processes %s with other settings, want others", after)
	}
}

var processID = regexp.MustCompile(`^\{"id":"([A-Z2-7]{26})"\}\n$`)

// ids returns the ids of the nodes at addresses.
func ids(s *sitetest.Site, addresses []string) string {
	s.T.Helper()
	var all []string
	for _, address := range addresses {
		status, body := probe(s, http.MethodGet, address, peers.ProbePath)
		found := processID.FindStringSubmatch(body)
		if status != http.StatusOK || found == nil {
			s.T.Fatalf("got %d %q from a node, want 200 and its id", status, body)
		}
		all = append(all, found[1])
	}
	return strings.Join(all, " ")
}

// TestPathsOfNodes checks what the paths of nodes answer without peers, and to others.
func TestPathsOfNodes(t *testing.T) {
	s, addresses := sitetest.Nodes(t, 1, sitetest.Visible("open", directory.Public))
	s.Load(sitetest.Visible("open", directory.Public))
	s.Get(peers.ProbePath).Expect(t, http.StatusNotFound, "NAME_UNKNOWN")
	s.Get(peers.ProbePath+"blobs/x").Expect(t, http.StatusNotFound, "NAME_UNKNOWN")
	if a := s.Get(strings.TrimSuffix(peers.ProbePath, "/")); string(a.Data) != "next handler" {
		t.Errorf("got %s, want the next handler", a.Data)
	}
	for _, method := range []string{http.MethodPost, http.MethodDelete, http.MethodPut} {
		if status, body := probe(s, method, addresses[0], peers.ProbePath); status != http.StatusMethodNotAllowed {
			t.Errorf("%s: got %d %s, want 405", method, status, body)
		}
	}
}

// TestPeersNeedSharedKeys checks that Caddy's default storage is refused with peers, and
// a directory that the configuration names is not.
func TestPeersNeedSharedKeys(t *testing.T) {
	s := sitetest.NewSite(t)
	lines := []string{sitetest.Visible("open", directory.Public), "peers {\n to 127.0.0.1:1\n transport http {\n tls_server_name registry.example.com\n }\n}"}
	if err := s.Validate(lines...); err != nil {
		t.Errorf("got %v with a directory, want nil", err)
	}
	config, err := s.Adapt(lines...)
	if err != nil {
		t.Fatal(err)
	}
	var whole map[string]json.RawMessage
	if err := json.Unmarshal(config, &whole); err != nil {
		t.Fatal(err)
	}
	delete(whole, "storage")
	if config, err = json.Marshal(whole); err != nil {
		t.Fatal(err)
	}
	var parsed caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &parsed); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&parsed); err == nil || !strings.Contains(err.Error(), "the nodes must share the signing keys") || !strings.Contains(err.Error(), "set the global option storage") {
		t.Errorf("got %v with the default storage, want an error about the keys", err)
	}
	// JSON is checked as a Caddyfile is.
	config = []byte(strings.Replace(string(config), `"server_name":"registry.example.com"`, `"insecure_skip_verify":true,"server_name":"x"`, 1))
	parsed = caddy.Config{}
	if err := caddy.StrictUnmarshalJSON(config, &parsed); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&parsed); err == nil || !strings.Contains(err.Error(), "tls_insecure_skip_verify") {
		t.Errorf("got %v for JSON without verification, want an error", err)
	}
}
