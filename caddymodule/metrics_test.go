package caddymodule

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/metrics"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/porttest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestMetrics checks that the metrics that the package lists are shown, with their
// labels and no others, and what they count.
func TestMetrics(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 300_000)
	image := up.PutImage("library/alpine", "3.20", layer)
	s := sitetest.NewScraped(t)
	s.Limits = "max_size 1GiB"
	s.Load("name main", sitetest.Users("alice", "bob"), "group acme {\n members alice\n quota 10MiB\n}", sitetest.Visible("open", directory.Public), sitetest.Hub(up))
	before := s.Scrape()
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	s.AwaitStored(string(image.Layers[0]))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("bob")).Expect(t, http.StatusForbidden, "DENIED")
	s.Get(sitetest.Auth, sitetest.Basic("alice", "wrong")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Get(sitetest.Auth, sitetest.Basic("nobody", "wrong")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Get(sitetest.Auth, sitetest.As("alice")).Expect(t, http.StatusOK, "")
	manifest := len(up.RawManifest("library/alpine", image.Manifest))
	config := len(up.RawBlob("library/alpine", image.Config))
	all := float64(manifest + config + len(layer))
	s.ExpectIncrease(before, map[string]float64{
		`requests_total{kind="manifest",result="miss"}`:                                 1,
		`requests_total{kind="manifest",result="hit"}`:                                  1,
		`requests_total{kind="manifest",result="denied"}`:                               1,
		`requests_total{kind="blob",result="miss"}`:                                     2,
		`requests_total{kind="blob",result="hit"}`:                                      2,
		`requests_total{kind="token",result="ok"}`:                                      1,
		`requests_total{kind="token",result="unauthorized"}`:                            2,
		`response_bytes_total{source="cache",upstream="docker.io"}`:                     all,
		`response_bytes_total{source="upstream",upstream="docker.io"}`:                  all,
		`first_byte_seconds_count{kind="blob",result="hit"}`:                            2,
		`denied_total{reason="not_a_member"}`:                                           1,
		`logins_total{directory="static",result="refused",site="main"}`:                 1,
		`logins_total{directory="_none",result="refused",site="main"}`:                  1,
		`upstream_requests_total{code="200",operation="head",upstream="docker.io"}`:     1,
		`upstream_requests_total{code="200",operation="manifest",upstream="docker.io"}`: 1,
		`upstream_requests_total{code="200",operation="blob",upstream="docker.io"}`:     2,
		`upstream_request_seconds_count{operation="blob",upstream="docker.io"}`:         2,
		`upstream_bytes_total{upstream="docker.io"}`:                                    all,
		`fills_total{result="ok"}`:                                                      2,
		`stored_bytes{storage="cache"}`:                                                 all,
		`stored_blobs{storage="cache"}`:                                                 3,
		`quota_limit_bytes{group="acme",storage="cache"}`:                               0,
	})
	got := s.Scrape()
	if limit := got[`stored_limit_bytes{storage="cache"}`]; limit <= 0 || limit > 1<<30 {
		t.Errorf("got stored_limit_bytes %v, want up to 1 GiB", limit)
	}
	for series, want := range map[string]float64{
		`directory_up{directory="static",site="main"}`:    1,
		`fills_in_flight{storage="cache"}`:                0,
		`quota_limit_bytes{group="acme",storage="cache"}`: 10 << 20,
	} {
		if value, ok := got[series]; !ok || value != want {
			t.Errorf("got %s %v (shown: %v), want %v", series, value, ok, want)
		}
	}
	checkNames(s, got)
}

// checkNames compares the names and labels of a scrape with those of the package.
func checkNames(s *sitetest.Site, got sitetest.Scrape) {
	s.T.Helper()
	found := got.Labels()
	for _, d := range metrics.All() {
		name := strings.TrimPrefix(d.Name, metrics.Prefix)
		labels := slices.Sorted(slices.Values(d.Labels))
		want := []string{strings.Join(labels, ",")}
		seen := found[name]
		delete(found, name)
		if seen == nil && slices.Contains([]string{"quota_bytes", "upstream_ratelimit_remaining", "upstream_ratelimit_limit", "peers", "peer_requests_total", "peer_response_bytes_total"}, name) {
			continue // nothing is known yet, or there are none
		}
		if seen == nil && (strings.HasPrefix(name, "bucket_") || strings.HasPrefix(name, "uploads_")) {
			continue // covered by TestStorageS3Metrics
		}
		if !slices.Equal(seen, want) {
			s.T.Errorf("%s: got the labels %q, want %q", name, seen, want)
		}
	}
	if len(found) > 0 {
		s.T.Errorf("got the metrics %v, which are not listed", found)
	}
}

// TestMetricsReload checks that a reload keeps the counters and removes the series of
// upstreams, directories and groups that the new configuration does not have, and that
// a configuration that fails to load changes nothing.
func TestMetricsReload(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 300))
	s := sitetest.NewScraped(t)
	site := []string{sitetest.Users("alice"), sitetest.Hub(up), "metrics {\n per_group\n}"}
	with := func(more ...string) []string { return append(slices.Clone(site), more...) }
	old, next := with(sitetest.Private("old", "alice"), sitetest.Private("kept", "alice"), sitetest.UpstreamAt("gone.example.com", up.URL())), with(sitetest.Private("new", "alice"), sitetest.Private("kept", "alice"))
	s.Load(old...)
	before := s.Scrape()
	for _, path := range []string{sitetest.ManifestPath("old", "alpine", "3.20"), sitetest.ManifestPath("kept", "alpine", "3.20"), sitetest.ManifestPath("kept", "gone.example.com/library/alpine", "3.20")} {
		s.Get(path, sitetest.As("alice")).Expect(t, http.StatusOK, "")
	}
	s.Get(sitetest.ManifestPath("never/declared", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusForbidden, "DENIED")
	counted := map[string]float64{
		`requests_total{group="old",kind="manifest",result="miss"}`:                        1,
		`requests_total{group="kept",kind="manifest",result="miss"}`:                       2,
		`requests_total{group="_other",kind="manifest",result="denied"}`:                   1,
		`denied_total{group="_other",reason="unknown_group"}`:                              1,
		`upstream_requests_total{code="200",operation="head",upstream="gone.example.com"}`: 1,
	}
	s.ExpectIncrease(before, counted)
	if err := s.TryLoad(with(sitetest.Private("new", "alice"), sitetest.Hub(up, "realm_hosts https://x/"))...); err == nil {
		t.Fatal("got no error of an invalid configuration")
	}
	s.ExpectIncrease(before, counted)
	s.Load(next...)
	s.Get(sitetest.ManifestPath("new", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	delete(counted, `requests_total{group="old",kind="manifest",result="miss"}`)
	delete(counted, `upstream_requests_total{code="200",operation="head",upstream="gone.example.com"}`)
	counted[`requests_total{group="new",kind="manifest",result="miss"}`] = 1
	s.ExpectIncrease(before, counted)
	for series := range s.Scrape() {
		if strings.Contains(series, `"old"`) || strings.Contains(series, "gone.example.com") || strings.HasPrefix(series, `requests_total{kind`) {
			t.Errorf("got the series %s of the former configuration", series)
		}
	}
	s.Load(sitetest.Users("alice"), sitetest.Hub(up), sitetest.Private("kept", "alice"))
	for series := range s.Scrape() {
		if strings.Contains(series, "group=") {
			t.Errorf("got the series %s without per_group", series)
		}
	}
}

// TestMetricsOfAdmin checks what the admin API shows after a configuration was refused,
// whose registry it then has.
func TestMetricsOfAdmin(t *testing.T) {
	up := registrytest.New(t)
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	shown := func() bool {
		t.Helper()
		a := s.Ask(http.MethodGet, "/metrics", "").Expect(t, http.StatusOK, "")
		return strings.Contains(string(a.Data), metrics.Prefix+`upstream_up{site="default",upstream="docker.io"} 1`)
	}
	if !shown() {
		t.Error("got no metrics of the upstream")
	}
	if err := s.TryLoad(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "realm_hosts https://x/")); err == nil {
		t.Fatal("got no error of an invalid configuration")
	}
	if !shown() {
		t.Error("got no metrics of the upstream after a configuration was refused")
	}
}

// TestMetricsOfEqualSites checks that sites of equal names, which share a storage or
// have one of the same name, do not make a scrape fail.
func TestMetricsOfEqualSites(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 300))
	s := sitetest.NewScraped(t)
	lines := []string{sitetest.Users("alice"), "group acme {\n members alice\n quota 10MiB\n}", sitetest.Hub(up)}
	for _, storage := range []string{s.Cache, s.Dir + "/other/cache"} {
		for _, more := range []string{"", "metrics {\n per_group\n}"} {
			s.After += fmt.Sprintf("http://:%s {\n bind 127.0.0.1\n dependency_proxy {\n storage filesystem %s {\n reserve off\n }\n %s\n %s\n }\n}\n",
				sitetest.PortOf(porttest.Reserve(t)), storage, strings.Join(lines, "\n"), more)
		}
	}
	s.Load(lines...)
	before := s.Scrape()
	s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	s.ExpectIncrease(before, map[string]float64{`requests_total{kind="manifest",result="miss"}`: 1})
	got := s.Scrape()
	for series, want := range map[string]float64{
		`directory_up{directory="static",site="default"}`:                               1,
		fmt.Sprintf(`stored_blobs{storage="filesystem %s"}`, s.Cache):                   1,
		fmt.Sprintf(`stored_blobs{storage="filesystem %s/other/cache"}`, s.Dir):         0,
		fmt.Sprintf(`quota_limit_bytes{group="acme",storage="filesystem %s"}`, s.Cache): 10 << 20,
	} {
		if value, ok := got[series]; !ok || value != want {
			t.Errorf("got %s %v (shown: %v), want %v", series, value, ok, want)
		}
	}
}

// TestMetricsOfUpstreams checks what is shown of upstreams with several logins: whether
// they are up, and what they still allow.
func TestMetricsOfUpstreams(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 300))
	t.Setenv("HUB_PASSWORD", sitetest.UpstreamPassword)
	s := sitetest.NewScraped(t)
	s.Load("name main", sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up, "credentials acme {env.HUB_PASSWORD}"),
		"group other/team {\n members alice\n upstream docker.io {\n  credentials other {env.HUB_PASSWORD}\n }\n}")
	up.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("RateLimit-Limit", "100;w=21600")
		w.Header().Set("RateLimit-Remaining", "76;w=21600")
		return false
	})
	for _, group := range []string{"acme", "other/team"} {
		s.Get(sitetest.ManifestPath(group, "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	}
	expect := func(want sitetest.Scrape) {
		t.Helper()
		got := s.Scrape()
		for series, value := range want {
			if shown, ok := got[series]; !ok || shown != value {
				t.Errorf("got %s %v (shown: %v), want %v", series, shown, ok, value)
			}
		}
	}
	expect(sitetest.Scrape{
		`upstream_up{site="main",upstream="docker.io"}`:                                     1,
		`upstream_ratelimit_remaining{login="common",site="main",upstream="docker.io"}`:     76,
		`upstream_ratelimit_remaining{login="other/team",site="main",upstream="docker.io"}`: 76,
		`upstream_ratelimit_limit{login="common",site="main",upstream="docker.io"}`:         100,
	})
	up.SetFault(nil)
	up.Fail(registrytest.Failure{Status: http.StatusServiceUnavailable})
	for i := range 3 {
		s.Get(sitetest.ManifestPath("acme", fmt.Sprint("image", i), "3.20"), sitetest.As("alice"))
	}
	expect(sitetest.Scrape{`upstream_up{site="main",upstream="docker.io"}`: 0})
	up.Heal()
}

// TestMetricsInDocumentation checks that the documentation describes each metric with
// its type and labels.
func TestMetricsInDocumentation(t *testing.T) {
	page := documentation(t)["../docs/metrics.md"]
	for _, d := range metrics.All() {
		labels := ""
		if len(d.Labels) > 0 {
			labels = "`" + strings.Join(d.Labels, "`, `") + "`"
		}
		if d.PerGroup {
			labels += ", (`group`)"
		}
		row := fmt.Sprintf("| `%s` | %s | %s |", strings.TrimPrefix(d.Name, metrics.Prefix), d.Type, strings.TrimPrefix(labels, ", "))
		if !strings.Contains(page, row) {
			t.Errorf("docs/metrics.md has no line that begins with %s", row)
		}
	}
	for result := record.None + 1; result <= record.Canceled; result++ {
		if !strings.Contains(page, "`"+result.String()+"`") {
			t.Errorf("docs/metrics.md does not have the result %s", result)
		}
	}
	if rows, n := strings.Count(page, "| counter |")+strings.Count(page, "| gauge |")+strings.Count(page, "| histogram |"), len(metrics.All()); rows != n {
		t.Errorf("docs/metrics.md describes %d metrics, want %d", rows, n)
	}
}
