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
		Short: "Tells whether an account may pull an image, and why",
		Long: `
Tells whether an account may pull an image now, which rule decides, and what the
image's name means. Without --as, it tells about somebody who is not logged in.
An account is DIRECTORY:NAME; the name alone is enough for one of a user line,
or where there is one directory. token:ID stands for the access token of that id.

The image is a group and an image, as in acme/alpine:3.20, or the whole name
that is pulled. Of the groups that fit a name, the longest is meant.`,
		Example: "  $ caddy dependency-proxy explain --as ldap:alice --pull acme/alpine:3.20",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().String("as", "", "Account that pulls; nobody if empty")
	cmd.Flags().String("pull", "", "Image that is pulled")
	return runs(cmd, explainCommandRun)
}

func explainCommandRun(c command) (int, error) {
	if c.flags.String("pull") == "" {
		return caddy.ExitCodeFailedStartup, errors.New("say what is pulled: --pull GROUP/IMAGE")
	}
	query := url.Values{"as": {c.flags.String("as")}, "pull": {c.flags.String("pull")}}
	if site := c.given("site"); site != nil {
		query.Set("site", *site)
	}
	var all ExplanationList
	answer, err := c.ask(http.MethodGet, explainPath+"?"+query.Encode(), nil, &all)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	status := caddy.ExitCodeSuccess
	asJSON := c.printJSON(answer)
	for _, e := range all.Answers {
		if !e.Allowed {
			status = exitNo
		}
		if !asJSON {
			_, _ = fmt.Fprint(c.OutOrStdout(), e.text(c.flags.String("as"), len(all.Answers) > 1))
		}
	}
	return status, nil
}

// text is an explanation for people.
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
	line("account:     %s", e.Account.text(cmp.Or(name, "nobody")))
	line("group:       %s, %s", e.Group, cmp.Or(string(e.Visibility), "which does not exist"))
	line("image:       %s at %s, %s", e.Repository, e.Upstream, e.Reference)
	for _, limit := range e.Limits {
		line("limit:       %s", limit)
	}
	if e.Warning != "" {
		line("warning:     %s", e.Warning)
	}
	return out.String()
}

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
