package admin

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/health"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
)

func statusCommand() *cobra.Command {
	return withRun(&cobra.Command{
		Use:   "status",
		Short: "Shows the state of the cache, the upstreams, the directories and the nodes",
		Args:  cobra.NoArgs,
	}, runStatus)
}

func runStatus(c command) (int, error) {
	uri := statusPath
	if site := c.flagIfSet("site"); site != nil {
		uri += "?" + url.Values{"site": {*site}}.Encode()
	}
	var s Status
	response, err := c.request(http.MethodGet, uri, nil, &s)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if !c.printJSON(response) {
		s.print(c.OutOrStdout())
	}
	return caddy.ExitCodeSuccess, nil
}

// print formats the status.
func (s Status) print(out io.Writer) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { _, _ = fmt.Fprintln(table, strings.Join(cells, "\t")) }
	for _, cache := range s.Caches {
		row("storage", cache.Storage)
		row("stored", cache.stored())
		if cache.Remote != nil {
			printRemote(row, cache.Remote)
		}
	}
	row("served", s.Requests.text())
	if s.DroppedEvents > 0 {
		row("events", fmt.Sprintf("%d dropped: the handlers are too slow", s.DroppedEvents))
	}
	s.printSites(row)
	s.printPeers(row)
	row("\nDOWNLOAD", "PROGRESS", "READERS", "SINCE")
	for _, cache := range s.Caches {
		for _, f := range cache.Fills {
			row(f.Digest, fmt.Sprintf("[%s] %s of %s", bar(f.Written, f.Size), FormatSize(f.Written), FormatSize(f.Size)),
				fmt.Sprint(f.Readers), local(f.Since))
		}
	}
	_ = table.Flush()
	if len(s.Errors) > 0 {
		_, _ = fmt.Fprint(out, "\nLAST WARNINGS AND ERRORS\n")
	}
	for _, line := range s.Errors {
		_, _ = fmt.Fprintf(out, "%s %s\n", local(line.Time), line.text())
	}
}

func (s Status) printSites(row func(cells ...string)) {
	row("\nSITE", "UPSTREAM", "ENDPOINT", "LOGIN", "STATE", "PULLS LEFT")
	for _, site := range s.Sites {
		for _, u := range site.Upstreams {
			row(cmp.Or(site.Name, "-"), u.Name, u.Host, u.Login, stateOf(u), pullsLeft(u.Budget))
		}
	}
	row("\nSITE", "DIRECTORY", "STATE")
	for _, site := range s.Sites {
		for _, d := range site.Directories {
			state := string(d.Status)
			if d.Error != "" {
				state += ": " + printable(d.Error)
			}
			row(cmp.Or(site.Name, "-"), d.Name, state)
		}
	}
}

// printPeers prints the nodes of the sites that have some.
func (s Status) printPeers(row func(cells ...string)) {
	first := true
	for _, site := range s.Sites {
		if site.Peers == nil {
			continue
		}
		if first {
			row("\nSITE", "NODE", "STATE")
			first = false
		}
		for _, n := range site.Peers.Nodes {
			row(cmp.Or(site.Name, "-"), n.Name, nodeState(n))
		}
		if site.Peers.Error != "" {
			row(cmp.Or(site.Name, "-"), "-", "using a former list: "+printable(site.Peers.Error))
		}
	}
}

func nodeState(n peers.NodeState) string {
	state := string(n.State)
	switch {
	case !n.Until.IsZero():
		state += ", not asked until " + local(n.Until)
	case n.State == peers.Down && !n.Answered.IsZero():
		state += ", last answered " + local(n.Answered)
	}
	if n.Error != "" {
		state += ": " + printable(n.Error)
	}
	return state
}

func (r RequestStatus) text() string {
	text := fmt.Sprintf("%d manifests and blobs since %s", r.Served, local(r.Since))
	if r.Served > 0 {
		text += fmt.Sprintf(", %.1f %% of them from the cache", float64(r.Hits)/float64(r.Served)*100)
	}
	return text
}

// stateOf describes whether an upstream is asked.
func stateOf(u health.Upstream) string {
	state := u.State
	switch {
	case u.State == "offline":
		return "offline by configuration"
	case u.State == "down":
		state += " since " + local(u.Since)
	}
	if !u.Until.IsZero() {
		state += ", not asked until " + local(u.Until)
	}
	if u.Limit != "" {
		state += " (" + u.Limit + ")"
	}
	if u.State == "down" && u.Error != "" {
		state += ": " + printable(u.Error)
	}
	return state
}

func pullsLeft(b *health.Budget) string {
	if b == nil {
		return "-"
	}
	return fmt.Sprintf("%d of %d", b.Remaining, b.Limit)
}

// text formats a line of the log with its fields.
func (l LogLine) text() string {
	text := l.Level + ": " + printable(l.Message)
	for _, name := range slices.Sorted(maps.Keys(l.Fields)) {
		text += fmt.Sprintf(" %s=%q", name, l.Fields[name])
	}
	return text
}

func local(t time.Time) string { return t.Local().Format(time.DateTime) }
