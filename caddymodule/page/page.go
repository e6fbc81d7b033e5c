// Package page renders the pages of a site and of its groups, as HTML for browsers and
// as JSON for scripts.
//
// The pages need no scripts and load nothing: the style sheet is in the page, charts
// are inline SVG with a table beside them, and commands are selected as a whole by one
// click. The names on a page come from clients, upstreams and directories, so all of
// them go through html/template.
package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
)

//go:embed templates
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"size": admin.FormatSize,
	"ago":  ago,
	"add":  func(a, b int) int { return a + b },
	"date": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
	"iso":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
}).ParseFS(files, "templates/*.html", "templates/*.css"))

// policy is the Content-Security-Policy of the pages: nothing but their own style
// sheet.
var policy = "default-src 'none'; style-src " + styleHash() + "; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

// styleHash returns the hash of the style sheet, as the policy names it.
func styleHash() string {
	page, err := HTML(&Site{})
	if err != nil {
		panic(err) // the template and its data are both of this package
	}
	_, rest, _ := strings.Cut(string(page), "<style>")
	style, _, _ := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(style))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// A View is a [Group] or a [Site].
type View interface{ template() string }

// HTML returns a page as HTML. It fails only if the template does not fit the data.
func HTML(v View) ([]byte, error) {
	var body bytes.Buffer
	err := templates.ExecuteTemplate(&body, v.template(), v)
	return body.Bytes(), err
}

// SetHeaders sets the headers with which a page is sent as HTML.
func SetHeaders(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer")
}

// WantsHTML reports whether the client of a request is a browser. Browsers accept HTML
// by name, scripts any type.
func WantsHTML(r *http.Request) bool {
	return strings.Contains(strings.Join(r.Header.Values("Accept"), ","), "text/html")
}

// ago returns the time that has passed since t, in its largest unit.
func ago(now, t time.Time) string {
	const day = 24 * time.Hour
	passed := now.Sub(t)
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{365 * day, "year"}, {30 * day, "month"}, {day, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		switch n := int(passed / unit.length); {
		case n == 1:
			return "1 " + unit.name + " ago"
		case n > 1:
			return fmt.Sprintf("%d %ss ago", n, unit.name)
		}
	}
	return "just now"
}
