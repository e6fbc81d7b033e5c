package metrics_test

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/metrics"
)

// query is an expression of the dashboard or of an alert, with the text that shows the
// labels of its result.
type query struct{ where, expr, shown string }

// foreign are metrics of Prometheus and Caddy that the alerts use.
var foreign = regexp.MustCompile(`^(up|caddy_config_last_reload_successful)\b`)

// dashboardQueries returns the expressions of docs/grafana.json.
func dashboardQueries(t *testing.T) (all []query) {
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "grafana.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			all = append(all, query{"panel " + p.Title, target.Expr, target.LegendFormat})
		}
	}
	for _, v := range dashboard.Templating.List {
		if v.Definition != "" {
			all = append(all, query{"variable " + v.Name, v.Definition, ""})
		}
	}
	return all
}

var alert = regexp.MustCompile(`(?s)- alert: (\w+)\n +expr: \|-\n(.*?)\n +(?:for: \w+\n +)?labels:\n +severity: (?:critical|warning|info)\n +annotations:\n +summary: "(.*?)"\n +runbook_url: (\S+)\n`)

// alertQueries returns the expressions of docs/alerts.yml, and the link of each to its
// explanation.
func alertQueries(t *testing.T) (all []query, links map[string]string) {
	text := read(t, "alerts.yml")
	links = make(map[string]string)
	for _, m := range alert.FindAllStringSubmatch(text, -1) {
		all = append(all, query{"alert " + m[1], strings.TrimSpace(m[2]), m[3]})
		links[m[1]] = m[4]
	}
	if want := strings.Count(text, "- alert:"); len(all) != want || len(links) != want || want == 0 {
		t.Fatalf("found %d alerts of the known form, %d names, want %d", len(all), len(links), want)
	}
	return all, links
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var (
	ours       = regexp.MustCompile(`\b(caddy_dependency_proxy_\w+)(?:\{([^}]*)\})?`)
	matcher    = regexp.MustCompile(`(\w+)(?:=~|!~|!=|=)"([^"]*)"`)
	aggregated = regexp.MustCompile(`by \(([^)]*)\) \((?:\w+\()?(caddy_dependency_proxy_\w+)`)
	shown      = regexp.MustCompile(`\{\{ ?(?:\$labels\.)?(\w+) ?\}\}|\$labels\.(\w+)`)
	plainWord  = regexp.MustCompile(`^[a-z0-9_]+$`)
)

// labelsOf returns the labels of a metric, or of the series of a histogram.
func labelsOf(name string) (labels []string, known bool) {
	for _, d := range metrics.All() {
		labels := append(slices.Clone(d.Labels), "instance", "job")
		if d.PerGroup {
			labels = append(labels, "group")
		}
		switch {
		case d.Name == name && d.Type != "histogram":
			return labels, true
		case d.Type == "histogram" && name == d.Name+"_bucket":
			return append(labels, "le"), true
		case d.Type == "histogram" && (name == d.Name+"_sum" || name == d.Name+"_count"):
			return labels, true
		}
	}
	return nil, false
}

// TestQueriesUseMetricsThatExist checks that the dashboard and the alerts name only
// metrics, labels and values that exist, and that the dashboard shows every metric.
func TestQueriesUseMetricsThatExist(t *testing.T) {
	page, dashboard := read(t, "metrics.md"), dashboardQueries(t)
	alerts, _ := alertQueries(t)
	seen := make(map[string]bool)
	for i, q := range append(slices.Clone(dashboard), alerts...) {
		found := ours.FindAllStringSubmatch(q.expr, -1)
		if len(found) == 0 && !foreign.MatchString(q.expr) {
			t.Errorf("%s: found no metric in %s", q.where, q.expr)
		}
		result := make(map[string]bool)
		for _, m := range found {
			labels, known := labelsOf(m[1])
			if !known {
				t.Errorf("%s: got the metric %s, want one that exists", q.where, m[1])
			}
			if i < len(dashboard) {
				seen[m[1]] = true
			}
			for _, l := range labels {
				result[l] = true
			}
			for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
				if !slices.Contains(labels, l[1]) {
					t.Errorf("%s: got the label %s of %s, want one of %v", q.where, l[1], m[1], labels)
				}
				for value := range strings.SplitSeq(l[2], "|") {
					if l[1] != "code" && plainWord.MatchString(value) && !strings.Contains(page, "`"+value+"`") {
						t.Errorf("%s: got %s=%q, want a value that docs/metrics.md explains", q.where, l[1], value)
					}
				}
			}
		}
		checkLabels(t, q, result)
	}
	for _, d := range metrics.All() {
		if !seen[d.Name] && !seen[d.Name+"_bucket"] {
			t.Errorf("the dashboard does not show %s", d.Name)
		}
	}
}

// checkLabels checks the labels by which an expression aggregates, and those of its
// result that are shown. The result has those of its metrics if it does not aggregate.
func checkLabels(t *testing.T, q query, result map[string]bool) {
	t.Helper()
	groups := aggregated.FindAllStringSubmatch(q.expr, -1)
	if want := strings.Count(q.expr, " by "); len(groups) != want {
		t.Errorf("%s: got %d aggregations of the known form, want %d", q.where, len(groups), want)
	}
	if strings.HasPrefix(q.expr, "sum(") || len(groups) > 0 {
		clear(result)
	}
	for _, m := range groups {
		labels, _ := labelsOf(m[2])
		for l := range strings.SplitSeq(m[1], ", ") {
			result[l] = true
			if !slices.Contains(labels, l) {
				t.Errorf("%s: got an aggregation of %s by %s, want by some of %v", q.where, m[2], l, labels)
			}
		}
	}
	if foreign.MatchString(q.expr) {
		result["instance"] = true
	}
	for _, m := range shown.FindAllStringSubmatch(q.shown, -1) {
		if l := m[1] + m[2]; !result[l] {
			t.Errorf("%s: got the label %s in %q, want one of %v", q.where, l, q.shown, slices.Sorted(maps.Keys(result)))
		}
	}
}

// TestAlertsAreExplained checks that docs/operations.md explains each alert, where its
// link leads.
func TestAlertsAreExplained(t *testing.T) {
	const page = "https://github.com/dependencyproxy/caddy-dependency-proxy/blob/main/docs/operations.md#"
	text := read(t, "operations.md")
	_, links := alertQueries(t)
	for name, link := range links {
		if want := page + strings.ToLower(name); link != want {
			t.Errorf("%s: got the link %s, want %s", name, link, want)
		}
		if _, after, ok := strings.Cut(text, "\n### "+name+"\n\n"); !ok || strings.HasPrefix(after, "#") {
			t.Errorf("docs/operations.md does not explain %s", name)
		}
	}
}
