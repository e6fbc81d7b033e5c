package admin

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
)

func cacheStatusCommand() *cobra.Command {
	return withRun(&cobra.Command{
		Use:   "status",
		Short: "Shows how much of the cache groups use, and the running downloads",
		Args:  cobra.NoArgs,
	}, runCacheStatus)
}

func runCacheStatus(c command) (int, error) {
	var list CacheList
	response, err := c.request(http.MethodGet, cachePath, nil, &list)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if c.printJSON(response) {
		return caddy.ExitCodeSuccess, nil
	}
	for _, cache := range list.Caches {
		table := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintf(table, "%s\n\nGROUP\tSIZE\tQUOTA\tBLOBS\tMEASURED\n", cache.Storage)
		for _, group := range slices.Sorted(maps.Keys(cache.Groups)) {
			u := cache.Groups[group]
			quota := "-"
			if u.Quota > 0 {
				quota = FormatSize(u.Quota)
			}
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\n", group, FormatSize(u.Bytes), quota, u.Blobs, u.Measured.Format(time.DateTime))
		}
		_, _ = fmt.Fprint(table, "\nDOWNLOAD\tSIZE\tRECEIVED\tREADERS\tSINCE\n")
		for _, f := range cache.Fills {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\n", f.Digest, FormatSize(f.Size), FormatSize(f.Written), f.Readers, f.Since.Format(time.DateTime))
		}
		printRemote(table, cache.Remote)
		_ = table.Flush()
	}
	return caddy.ExitCodeSuccess, nil
}

func printRemote(w io.Writer, r *storage.RemoteStatus) {
	if r == nil {
		return
	}
	more := ""
	if r.More {
		more = " and more"
	}
	_, _ = fmt.Fprintf(w, "\n%s\nto upload: %d blobs, %d records%s\n", r.Name, r.Blobs, r.Records, more)
	if r.ReadError != "" {
		_, _ = fmt.Fprintf(w, "reads fail since %s: %s\n", r.ReadsFail.Format(time.DateTime), r.ReadError)
	}
	if r.WriteError != "" {
		_, _ = fmt.Fprintf(w, "writes fail since %s: %s\n", r.WritesFail.Format(time.DateTime), r.WriteError)
	}
}

func cacheScrubCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scrub [--rate <size>]",
		Short: "Reads all cached content and drops damaged blobs",
		Long: `
Reads all cached content and drops damaged blobs, which the next pull fetches
again. The command waits for the end of the check. If the command is interrupted,
the check continues. The exit status is 3 if blobs were damaged.`,
		Example: "  $ caddy dependency-proxy cache scrub --rate 200MiB",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().String("rate", "", "Limit of the bytes read per second, as in 200MiB; no limit if empty")
	return withRun(cmd, runCacheScrub)
}

// scrubPoll is the interval at which a command requests the state of a check.
const scrubPoll = 500 * time.Millisecond

func runCacheScrub(c command) (int, error) {
	var request scrubRequest
	if rate := c.flags.String("rate"); rate != "" {
		parsed, err := humanize.ParseBytes(rate)
		if err != nil || parsed == 0 || parsed > 1<<50 {
			return caddy.ExitCodeFailedStartup, fmt.Errorf("--rate: invalid size '%s'; write one as in 200MiB", rate)
		}
		request.Rate = int64(parsed)
	}
	var list CacheList
	response, err := c.request(http.MethodPost, scrubPath, request, &list)
	shown := c.showScrubs()
	for err == nil && slices.ContainsFunc(list.Caches, func(s CacheStatus) bool { return s.Scrub.Running }) {
		time.Sleep(scrubPoll)
		list = CacheList{}
		response, err = c.request(http.MethodGet, cachePath, nil, &list)
		shown(list)
	}
	shown(CacheList{})
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	asJSON := c.printJSON(response)
	status := caddy.ExitCodeSuccess
	for _, cache := range list.Caches {
		r := cache.Scrub.Result
		if r == nil || cache.Scrub.Error != "" {
			return caddy.ExitCodeFailedStartup, errors.New("the check did not finish: " + cache.Scrub.Error)
		}
		if r.Damaged > 0 {
			status = exitNegative
		}
		if !asJSON {
			_, _ = fmt.Fprintf(c.OutOrStdout(), "%d blobs, %s checked in %.0f s: %d damaged, %d of them dropped\n", r.Checked, FormatSize(r.Bytes), r.Seconds, r.Damaged, r.Healed)
		}
	}
	return status, nil
}

// showScrubs returns a function that shows the progress of the checks in a list. An empty
// list ends the display.
func (c command) showScrubs() func(CacheList) {
	if c.flags.Bool("json") {
		return func(CacheList) {}
	}
	all, tasks := newProgress(c.OutOrStdout()), make(map[string]*task)
	return func(list CacheList) {
		for _, cache := range list.Caches {
			t := tasks[cache.Storage]
			if t == nil {
				t = all.start(cache.Storage)
				tasks[cache.Storage] = t
			}
			t.set(cache.Scrub.Bytes, cache.Bytes)
		}
		if len(list.Caches) == 0 {
			for _, t := range tasks {
				t.end("")
			}
		}
	}
}

// FormatSize returns a size in bytes with a binary unit, as in "1.5 GiB". A negative
// size is unknown.
func FormatSize(n int64) string {
	if n < 0 {
		return "?"
	}
	return humanize.IBytes(uint64(n))
}
