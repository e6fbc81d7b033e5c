package admin

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

func cacheStatusCommand() *cobra.Command {
	return runs(&cobra.Command{
		Use:   "status",
		Short: "Shows what groups have in the cache, and the downloads under way",
		Args:  cobra.NoArgs,
	}, showCache)
}

func showCache(c command) (int, error) {
	var all CacheList
	answer, err := c.ask(http.MethodGet, cachePath, nil, &all)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if c.printJSON(answer) {
		return caddy.ExitCodeSuccess, nil
	}
	for _, cache := range all.Caches {
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
		_, _ = fmt.Fprint(table, "\nDOWNLOAD\tSIZE\tHERE\tREADERS\tSINCE\n")
		for _, f := range cache.Fills {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\n", f.Digest, FormatSize(f.Size), FormatSize(f.Written), f.Readers, f.Since.Format(time.DateTime))
		}
		_ = table.Flush()
	}
	return caddy.ExitCodeSuccess, nil
}

func cacheScrubCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scrub [--rate <size>]",
		Short: "Reads all that is cached and drops what the disk has damaged",
		Long: `
Reads all that is cached and drops what the disk has damaged, so that the next
pull fetches it again. It waits for the end; interrupted, the check goes on. It
ends with 3 if something was damaged.`,
		Example: "  $ caddy dependency-proxy cache scrub --rate 200MiB",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().String("rate", "", "How much is read each second at most, as in 200MiB; no bound if empty")
	return runs(cmd, scrubCache)
}

// scrubPoll is how often a command that waits for a check asks how it goes.
const scrubPoll = 500 * time.Millisecond

func scrubCache(c command) (int, error) {
	var order scrubRequest
	if rate := c.flags.String("rate"); rate != "" {
		parsed, err := humanize.ParseBytes(rate)
		if err != nil || parsed == 0 || parsed > 1<<50 {
			return caddy.ExitCodeFailedStartup, fmt.Errorf("--rate: '%s' is not a size; write one as in 200MiB", rate)
		}
		order.Rate = int64(parsed)
	}
	var all CacheList
	answer, err := c.ask(http.MethodPost, scrubPath, order, &all)
	for err == nil && slices.ContainsFunc(all.Caches, func(s CacheStatus) bool { return s.Scrub.Running }) {
		time.Sleep(scrubPoll)
		all = CacheList{}
		answer, err = c.ask(http.MethodGet, cachePath, nil, &all)
	}
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	asJSON := c.printJSON(answer)
	status := caddy.ExitCodeSuccess
	for _, cache := range all.Caches {
		r := cache.Scrub.Result
		if r == nil || cache.Scrub.Error != "" {
			return caddy.ExitCodeFailedStartup, errors.New("the check has not come to its end: " + cache.Scrub.Error)
		}
		if r.Damaged > 0 {
			status = exitNo
		}
		if !asJSON {
			_, _ = fmt.Fprintf(c.OutOrStdout(), "%d blobs, %s checked in %.0f s: %d damaged, %d of them dropped\n", r.Checked, FormatSize(r.Bytes), r.Seconds, r.Damaged, r.Healed)
		}
	}
	return status, nil
}

func FormatSize(n int64) string {
	if n < 0 {
		return "?"
	}
	return humanize.IBytes(uint64(n))
}
