package sitetest

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

// Scrape is what a scrape shows of this module: the values of series by their names
// without the prefix, as in fills_total{result="ok"}.
type Scrape map[string]float64

var (
	labelName = regexp.MustCompile(`(\w+)="`)
	bucket    = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// Scrape scrapes the site by Caddy's handler.
func (s *Site) Scrape() Scrape {
	s.T.Helper()
	a := s.Get("/metrics")
	if a.StatusCode != http.StatusOK {
		s.T.Fatalf("scrape: got %d: %s", a.StatusCode, a.Data)
	}
	seen := make(Scrape)
	for line := range strings.Lines(string(a.Data)) {
		line = strings.TrimSpace(line)
		name, ok := strings.CutPrefix(line, metrics.Prefix)
		if !ok {
			continue
		}
		cut := strings.LastIndexByte(name, ' ')
		value, err := strconv.ParseFloat(name[cut+1:], 64)
		if err != nil {
			s.T.Fatalf("scrape: %q: %v", line, err)
		}
		seen[name[:cut]] = value
	}
	return seen
}

// Labels returns the names of the labels of each metric, joined by commas.
func (s Scrape) Labels() map[string][]string {
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

func (s Scrape) isHistogram(base string) bool {
	return slices.ContainsFunc(metrics.All(), func(d metrics.Description) bool {
		return d.Name == metrics.Prefix+base && d.Type == "histogram"
	})
}

// increase returns the series that have increased or are new, with their increases.
func (s Scrape) increase(since Scrape) map[string]float64 {
	more := make(map[string]float64)
	for series, value := range s {
		if value != since[series] {
			more[series] = value - since[series]
		}
	}
	return more
}

// ExpectIncrease checks that series have increased by a number.
func (s *Site) ExpectIncrease(since Scrape, want map[string]float64) {
	s.T.Helper()
	var got map[string]float64
	for range 100 { // a client may have the response before it is counted
		got = s.Scrape().increase(since)
		if missing(got, want) == "" {
			return
		}
	}
	s.T.Errorf("%sgot the increases %v", missing(got, want), got)
}

func missing(got, want map[string]float64) (text string) {
	for series, value := range want {
		if got[series] != value {
			text += fmt.Sprintf("%s: got an increase of %v, want %v\n", series, got[series], value)
		}
	}
	return text
}

// NewScraped returns a site that can be scraped.
func NewScraped(t testing.TB) *Site {
	s := NewSite(t)
	s.Before = "handle /metrics {\n metrics\n}"
	return s
}
