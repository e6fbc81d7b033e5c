package admin

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

// maxImages is how many images a command pulls.
const maxImages = 100_000

func cacheWarmCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "warm [--platform <platform>]... [--parallel <number>] <image>...|-",
		Short: "Pulls images through the cache",
		Long: `
Pulls images through the cache, so that clients find them there. The running Caddy
pulls them on behalf of their groups, for which it needs no account. The limits and
the quotas of the groups apply.

Write an image with its group, as in acme/alpine:3.20, or the whole name that
clients pull. With -, the images are read from standard input, one a line. Empty
lines and lines that start with # are ignored.

All platforms of an image are pulled unless --platform is given. The exit status is
1 if an image could not be pulled. If the command is interrupted, it starts no other
downloads.`,
		Example: "  $ caddy dependency-proxy cache warm --platform linux/amd64 acme/alpine:3.20 acme/ghcr.io/acme/app:1\n" +
			"  $ caddy dependency-proxy cache warm - < images.txt",
		Args: cobra.MinimumNArgs(1),
	}
	cmd.Flags().StringSlice("platform", nil, "Platform to pull, as in linux/amd64; all if not given")
	cmd.Flags().Int("parallel", 4, "Number of images that are pulled at once, from 1 to 8")
	return withRun(cmd, runCacheWarm)
}

func runCacheWarm(c command) (int, error) {
	if err := c.rejectEmpty("platform"); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	parallel := c.flags.Int("parallel")
	platforms, _ := c.Flags().GetStringSlice("platform")
	if parallel < 1 || parallel > maxWarming {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("--parallel must be a number from 1 to %d", maxWarming)
	}
	images, err := c.images()
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	run := &warmRun{command: c, platforms: platforms, progress: newProgress(c.OutOrStdout()), begin: time.Now()}
	var pulls errgroup.Group
	pulls.SetLimit(parallel)
	for _, image := range images {
		pulls.Go(func() error {
			run.pull(image)
			return nil
		})
	}
	_ = pulls.Wait()
	if !c.flags.Bool("json") {
		_, _ = fmt.Fprintln(c.OutOrStdout(), run.summary(len(images)))
	}
	if run.failed > 0 {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("%d of %d images could not be pulled", run.failed, len(images))
	}
	return caddy.ExitCodeSuccess, nil
}

// images returns the images that the arguments name, each once.
func (c command) images() (images []string, err error) {
	seen := make(map[string]bool)
	add := func(image string) {
		if !seen[image] {
			seen[image] = true
			images = append(images, image)
		}
	}
	for _, arg := range c.args {
		if arg != "-" {
			add(arg)
			continue
		}
		lines := bufio.NewScanner(c.InOrStdin())
		for lines.Scan() {
			if line := strings.TrimSpace(lines.Text()); line != "" && !strings.HasPrefix(line, "#") {
				add(line)
			}
			if len(images) > maxImages {
				return nil, fmt.Errorf("there are more than %d images; split the list", maxImages)
			}
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("reading the list of images: %w", err)
		}
	}
	if len(images) == 0 {
		return nil, errors.New("the list has no image; write one a line, as in acme/alpine:3.20")
	}
	return images, nil
}

// warmRun is a run of the command.
type warmRun struct {
	command   command
	platforms []string
	progress  *progress
	begin     time.Time

	mu     sync.Mutex
	failed int
	all    WarmState // the sum of all images
}

// pull pulls an image and prints the result.
func (run *warmRun) pull(image string) {
	t := run.progress
	if run.command.flags.Bool("json") {
		t = newProgress(io.Discard)
	}
	shown := t.start(printable(image))
	var state WarmState
	err := repeat(func() (err error) {
		state, err = run.request(image, shown.set)
		return err
	})
	if err != nil {
		state.Image, state.Done, state.Error = image, true, err.Error()
	}
	run.mu.Lock()
	defer run.mu.Unlock()
	run.all.Manifests += state.Manifests
	run.all.Blobs += state.Blobs
	run.all.Bytes += state.Bytes
	run.all.Fetched += state.Fetched
	line := fmt.Sprintf("%s: %s in %.1f s", printable(image), amountOf(state), state.Seconds)
	if state.Error != "" {
		run.failed++
		line = printable(image) + ": failed: " + printable(strings.ReplaceAll(state.Error, "\n", "; "))
	}
	shown.end(line)
	if run.command.flags.Bool("json") {
		_ = json.NewEncoder(run.command.OutOrStdout()).Encode(state)
	}
}

// request has an image pulled and returns the final state. The error is [errBroken] if the
// connection breaks.
func (run *warmRun) request(image string, report func(done, total int64)) (state WarmState, err error) {
	response, err := run.command.open(http.MethodPost, warmPath,
		warmRequest{Image: image, Platforms: run.platforms, Site: run.command.flagIfSet("site")})
	if err != nil {
		return state, err
	}
	defer response.Body.Close()
	lines := json.NewDecoder(response.Body)
	for !state.Done {
		if err := lines.Decode(&state); err != nil {
			return state, errBroken
		}
		report(state.Bytes, state.Total)
	}
	return state, nil
}

// summary returns a line about all images.
func (run *warmRun) summary(images int) string {
	return fmt.Sprintf("%s, %d failed: %s in %.1f s", count(images, "image"), run.failed, amountOf(run.all), time.Since(run.begin).Seconds())
}

func amountOf(state WarmState) string {
	return fmt.Sprintf("%s, %s, %s, %s of it fetched", count(state.Manifests, "manifest"), count(state.Blobs, "blob"), FormatSize(state.Bytes), FormatSize(state.Fetched))
}

// count returns a number of things, as in "1 blob" or "2 blobs".
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprint(n, " ", thing)
}
