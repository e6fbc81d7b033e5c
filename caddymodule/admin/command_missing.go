package admin

import (
	"fmt"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
)

func cacheMissingCommand() *cobra.Command {
	return withRun(&cobra.Command{
		Use:   "missing",
		Short: "Lists what was requested while offline and is not cached",
		Long: `
Lists what clients have requested from upstreams that are offline and that is not
cached, the most requested first: at most 10000 entries for each storage since
Caddy was started. The list tells which images to pull once the upstreams are
online again.`,
		Args: cobra.NoArgs,
	}, runCacheMissing)
}

func runCacheMissing(c command) (int, error) {
	var list MissingList
	response, err := c.request(http.MethodGet, missingPath, nil, &list)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if c.printJSON(response) {
		return caddy.ExitCodeSuccess, nil
	}
	table := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprint(table, "REQUESTS\tLAST\tKIND\tIMAGE\n")
	for _, m := range list.Missing {
		_, _ = fmt.Fprintf(table, "%d\t%s\t%s\t%s\n", m.Requests, m.Last.Format(time.DateTime), m.Kind, m.image())
	}
	_ = table.Flush()
	return caddy.ExitCodeSuccess, nil
}

// image returns the name that clients have for the image, without the host.
func (m *Missing) image() string {
	name := m.Group + "/dependency_proxy/containers/" + m.Upstream + "/" + m.Repository
	switch {
	case m.Tag != "":
		return name + ":" + m.Tag
	case m.Digest != "":
		return name + "@" + string(m.Digest)
	}
	return name
}
