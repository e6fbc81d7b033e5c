package admin

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
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
		Short: "Shows how much of the cache groups use, the running downloads, and what is to be uploaded",
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
	list.print(c.OutOrStdout())
	return caddy.ExitCodeSuccess, nil
}

// print formats the list.
func (l CacheList) print(out io.Writer) {
	for _, cache := range l.Caches {
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		row := func(cells ...string) { _, _ = fmt.Fprintln(table, strings.Join(cells, "\t")) }
		row(cache.Storage + "\n")
		row("GROUP", "SIZE", "QUOTA", "BLOBS", "MEASURED")
		for _, group := range slices.Sorted(maps.Keys(cache.Groups)) {
			u := cache.Groups[group]
			quota := "-"
			if u.Quota > 0 {
				quota = FormatSize(u.Quota)
			}
			row(group, FormatSize(u.Bytes), quota, fmt.Sprint(u.Blobs), u.Measured.Format(time.DateTime))
		}
		row("\nDOWNLOAD", "SIZE", "RECEIVED", "READERS", "SINCE")
		for _, f := range cache.Fills {
			row(f.Digest, FormatSize(f.Size), FormatSize(f.Written), fmt.Sprint(f.Readers), f.Since.Format(time.DateTime))
		}
		_ = table.Flush()
		if cache.Remote != nil {
			row("\nlocal", cache.stored())
			printRemote(row, cache.Remote)
			_ = table.Flush()
		}
	}
}

// stored describes what is stored here.
func (s CacheStatus) stored() string {
	if s.Limit > 0 {
		return fmt.Sprintf("[%s] %s of %s in %s", bar(s.Bytes, s.Limit), FormatSize(s.Bytes), FormatSize(s.Limit), count(s.Blobs, "blob"))
	}
	return fmt.Sprintf("%s in %s", FormatSize(s.Bytes), count(s.Blobs, "blob"))
}

// printRemote formats the copy of a storage and what is to be uploaded to it.
func printRemote(row func(cells ...string), r *storage.RemoteStatus) {
	row("bucket", printable(r.Name))
	upload := "nothing"
	if r.Blobs+r.Records > 0 {
		upload = count(r.Blobs, "blob") + " and " + count(r.Records, "record")
		if r.More {
			upload += " and more"
		}
		upload += ", the first since " + local(r.Oldest)
	}
	row("to upload", upload)
	if r.FailedBlobs+r.FailedRecords > 0 {
		row("refused", fmt.Sprintf("%s and %s of them: %s", count(r.FailedBlobs, "blob"), count(r.FailedRecords, "record"), printable(r.ObjectError)))
	}
	if r.ReadError != "" {
		row("reads fail", "since "+local(r.ReadsFail)+": "+printable(r.ReadError))
	}
	if r.WriteError != "" {
		row("writes fail", "since "+local(r.WritesFail)+": "+printable(r.WriteError))
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
