package caddymodule

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	_ "github.com/caddyserver/caddy/v2/modules/metrics" // the handler that is scraped

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/metrics"
)

// scrape is what a scrape shows of this module: the values of series by their names
// without the prefix, as in fills_total{result="ok"}.
type scrape map[string]float64

var (
	labelName = regexp.MustCompile(`(\w+)="`)
	bucket    = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// scrape scrapes the site by Caddy's handler.
func (s *site) scrape() scrape {
	s.t.Helper()
	a := s.get("/metrics")
	if a.StatusCode != http.StatusOK {
		s.t.Fatalf("scrape: got %d: %s", a.StatusCode, a.body)
	}
	seen := make(scrape)
	for line := range strings.Lines(string(a.body)) {
		line = strings.TrimSpace(line)
		name, ok := strings.CutPrefix(line, metrics.Prefix)
		if !ok {
			continue
		}
		cut := strings.LastIndexByte(name, ' ')
		value, err := strconv.ParseFloat(name[cut+1:], 64)
		if err != nil {
			s.t.Fatalf("scrape: %q: %v", line, err)
		}
		seen[name[:cut]] = value
	}
	return seen
}

// labels returns the names of the labels of each metric, joined by commas.
func (s scrape) labels() map[string][]string {
	found := make(map[string][]string)
	for series := range s {
		name, labels, _ := strings.Cut(series, "{")
		if base := bucket.ReplaceAllString(name, ""); s.isHistogram(base) {
			name = base
		}
		var names []string
		for _, match := range labelName.FindAllStringSubmatch(labels, -1) {
			if match[1] != "le" {
				names = append(names, match[1])
			}
		}
		slices.Sort(names)
		if text := strings.Join(names, ","); !slices.Contains(found[name], text) {
			found[name] = append(found[name], text)
		}
	}
	return found
}

func (s scrape) isHistogram(base string) bool {
	return slices.ContainsFunc(metrics.All(), func(d metrics.Description) bool {
		return d.Name == metrics.Prefix+base && d.Type == "histogram"
	})
}

// increase returns the series that have increased or are new, with their increases.
func (s scrape) increase(since scrape) map[string]float64 {
	more := make(map[string]float64)
	for series, value := range s {
		if value != since[series] {
			more[series] = value - since[series]
		}
	}
	return more
}

// expect checks that series have increased by a number.
func (s *site) expectIncrease(since scrape, want map[string]float64) {
	s.t.Helper()
	var got map[string]float64
	for range 100 { // a client may have the response before it is counted
		got = s.scrape().increase(since)
		if missing(got, want) == "" {
			return
		}
	}
	s.t.Errorf("%sgot the increases %v", missing(got, want), got)
}

func missing(got, want map[string]float64) (text string) {
	for series, value := range want {
		if got[series] != value {
			text += fmt.Sprintf("%s: got an increase of %v, want %v\n", series, got[series], value)
		}
	}
	return text
}

// newScraped returns a site that can be scraped.
func newScraped(t testing.TB) *site {
	s := newSite(t)
	s.before = "handle /metrics {\n metrics\n}"
	return s
}
