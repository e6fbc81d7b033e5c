package admin

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
)

func explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain [--as <account>] --pull <image>",
		Short: "Explains whether an account may pull an image",
		Long: `
Explains whether an account may pull an image now, which rule decides, and which
repository the name of the image means. Without --as, the client is anonymous.

Write an account as DIRECTORY:NAME. The name alone is enough for an account of a
user line, and if the site has a single directory. Write token:ID for an access
token.

Write the image with its group, as in acme/alpine:3.20, or the whole name that is
pulled. If several groups match the name, the longest one is used.`,
		Example: "  $ caddy dependency-proxy explain --as ldap:alice --pull acme/alpine:3.20",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().String("as", "", "Account that pulls; anonymous if empty")
	cmd.Flags().String("pull", "", "Image that is pulled")
	return withRun(cmd, runExplain)
}

func runExplain(c command) (int, error) {
	if c.flags.String("pull") == "" {
		return caddy.ExitCodeFailedStartup, errors.New("missing image; use --pull GROUP/IMAGE")
	}
	query := url.Values{"as": {c.flags.String("as")}, "pull": {c.flags.String("pull")}}
	if site := c.flagIfSet("site"); site != nil {
		query.Set("site", *site)
	}
	var list ExplanationList
	response, err := c.request(http.MethodGet, explainPath+"?"+query.Encode(), nil, &list)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	status := caddy.ExitCodeSuccess
	asJSON := c.printJSON(response)
	for _, e := range list.Answers {
		if !e.Allowed {
			status = exitNegative
		}
		if !asJSON {
			_, _ = fmt.Fprint(c.OutOrStdout(), e.text(c.flags.String("as"), len(list.Answers) > 1))
		}
	}
	return status, nil
}

// text formats an explanation.
func (e Explanation) text(name string, severalSites bool) string {
	var out strings.Builder
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(&out, format+"\n", args...) }
	if severalSites {
		line("site:        %s", strings.Join(e.Sites, ", "))
	}
	verdict := "denied"
	if e.Allowed {
		verdict = "allowed"
	}
	line("%s: %s", verdict, e.Rule)
	line("account:     %s", e.Account.text(cmp.Or(name, "anonymous")))
	line("group:       %s, %s", e.Group, cmp.Or(string(e.Visibility), "which does not exist"))
	line("image:       %s at %s, %s", e.Repository, e.Upstream, e.Reference)
	if e.Offline {
		line("upstream:    %s is offline by configuration; only what is cached can be pulled", e.Upstream)
	}
	for _, limit := range e.Limits {
		line("limit:       %s", limit)
	}
	if e.Warning != "" {
		line("warning:     %s", e.Warning)
	}
	return out.String()
}

// text describes an account. A nil account is described by its name.
func (a *ExplainedAccount) text(name string) string {
	if a == nil {
		return name
	}
	text := fmt.Sprintf("%s of the directory %s, %s here", a.Name, a.Directory, a.Role)
	if a.Admin {
		text += ", admin of the site"
	}
	if a.AccessToken != "" {
		text += ", by access token " + a.AccessToken
	}
	if a.OnlyGroups != nil {
		text += ", in " + strings.Join(a.OnlyGroups, " and ") + " only"
	}
	if a.PullOnly {
		text += ", for pulling only"
	}
	for _, entry := range a.Misspelled {
		text += "; the configuration lists " + entry + ", which is another account by its spelling"
	}
	return text
}
