package admin

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

func tokenCreateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create (--account <name> [--group <path>]... | --group <path> [--role <role>]) [--scope <scope>]... [--name <text>] [--lifetime <duration>]",
		Short: "Makes an access token and prints it",
		Long: `
Makes an access token, to be used as a password with any user name, and prints
it. It is shown this once and kept nowhere.

With --account, the token stands for that account, in the groups given, or in
all of its groups. With --group alone, it is a deploy token, which pulls from
that group and its subgroups. With --group and --role, it has that role there:
member, maintainer or owner.

A token for pulling does nothing else. With --scope manage, the token of an
account can do all that the account can.`,
		Example: `  $ caddy dependency-proxy token create --group acme --name "runner 7" | docker login registry.example.com -u ci --password-stdin
  $ caddy dependency-proxy token create --account alice --lifetime 30d`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().String("account", "", "Account that the token stands for: DIRECTORY:NAME, or a name as in the configuration")
	cmd.Flags().StringSlice("group", nil, "Group of the token, or that it is limited to")
	cmd.Flags().String("role", "", "Role in the group: member, maintainer or owner")
	cmd.Flags().StringSlice("scope", nil, "What the token is for: pull (the default) or manage")
	cmd.Flags().String("name", "", "What the token is for, for people")
	cmd.Flags().String("lifetime", "", "How long the token lives: 90d by default, 366d at most")
	return runs(cmd, tokenCreate)
}

func tokenCreate(c command) (int, error) {
	order, err := orderOf(c)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	var made CreatedToken
	answer, err := c.ask(http.MethodPost, tokensPath, order, &made)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if c.printJSON(answer) {
		return caddy.ExitCodeSuccess, nil
	}
	c.say("%s token %s for %s, good until %s. It is shown this once:", made.Kind, made.ID, holder(made.Token), made.Expires.Format(time.DateOnly))
	_, err = fmt.Fprintln(c.OutOrStdout(), made.Secret)
	return caddy.ExitCodeSuccess, err
}

// orderOf reads the flags of create.
func orderOf(c command) (createRequest, error) {
	order := createRequest{Site: c.given("site")}
	order.Account, order.Role, order.Name = c.flags.String("account"), c.flags.String("role"), c.flags.String("name")
	order.Groups, _ = c.Flags().GetStringSlice("group")
	if err := c.notEmpty("account", "group", "role", "scope", "lifetime"); err != nil {
		return order, err
	}
	scopes, _ := c.Flags().GetStringSlice("scope")
	for _, scope := range scopes {
		order.Scopes = append(order.Scopes, accesstoken.Scope(scope))
	}
	switch {
	case order.Account != "":
		order.Kind = accesstoken.Personal
	case len(order.Groups) == 0:
		return order, errors.New("say whom the token is for: --account NAME, or --group PATH")
	case order.Role != "":
		order.Kind = accesstoken.Group
	default:
		order.Kind = accesstoken.Deploy
	}
	if text := c.flags.String("lifetime"); text != "" {
		lifetime, err := caddy.ParseDuration(text)
		if err != nil || lifetime <= 0 {
			return order, fmt.Errorf("'%s' is not a lifetime; write one as in 12h or 30d", text)
		}
		order.Lifetime = caddy.Duration(lifetime)
	}
	return order, nil
}

func tokenListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [--account <name>] [--group <path>]",
		Short: "Lists access tokens",
		Long:  "Lists the access tokens, the newest first, without what they are. Expired ones are listed for 30 days.",
		Args:  cobra.NoArgs,
	}
	cmd.Flags().String("account", "", "Only those that stand for this account: DIRECTORY:NAME, or a name of any directory")
	cmd.Flags().String("group", "", "Only those of this group, or limited to it")
	return runs(cmd, tokenList)
}

func tokenList(c command) (int, error) {
	query := url.Values{}
	for _, name := range []string{"site", "account", "group"} {
		if value := c.given(name); value != nil {
			query.Set(name, *value)
		}
	}
	var list TokenList
	answer, err := c.ask(http.MethodGet, tokensPath+"?"+query.Encode(), nil, &list)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if c.printJSON(answer) {
		return caddy.ExitCodeSuccess, nil
	}
	table := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "ID\tKIND\tFOR\tNAME\tMADE\tEXPIRES\tLAST USED\tSTATE")
	for _, t := range list.Tokens {
		used := "never"
		if !t.LastUsed.IsZero() {
			used = t.LastUsed.Format("2006-01-02 15h")
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.ID, t.Kind, holder(t.Token), cmp.Or(t.Name, "-"),
			t.Created.Format(time.DateOnly), t.Expires.Format(time.DateOnly), used, state(t))
	}
	return caddy.ExitCodeSuccess, table.Flush()
}

func state(t access.ListedToken) string {
	switch err := t.Valid(time.Now()); {
	case t.Ended != "":
		return "ended: " + t.Ended
	case errors.Is(err, accesstoken.ErrRevoked):
		return "revoked"
	case err != nil:
		return "expired"
	}
	return "good"
}

// holder is whom a token stands for, and where.
func holder(t accesstoken.Token) string {
	groups := strings.Join(t.Groups, ",")
	switch {
	case t.Owner == nil && t.Role != "":
		groups = t.Role + " of " + groups
	case t.Owner != nil && groups != "":
		groups = access.OwnerID(t.Owner).String() + " in " + groups
	case t.Owner != nil:
		groups = access.OwnerID(t.Owner).String()
	}
	if t.Site != "" {
		groups += " at " + t.Site
	}
	return groups
}

func tokenRevokeCommand() *cobra.Command {
	return runs(&cobra.Command{
		Use:   "revoke <id or token>...",
		Short: "Revokes access tokens",
		Long: `
Revokes access tokens, which are named by their id or are given themselves. The
node that is asked refuses them at once, others that share its storage within
30 seconds. What was made with a token ends with it, and is listed.`,
		Args: cobra.MinimumNArgs(1),
	}, tokenRevoke)
}

func tokenRevoke(c command) (int, error) {
	for _, arg := range c.args {
		// The token itself goes nowhere: addresses are logged.
		id, isToken := accesstoken.Parse(arg)
		if isToken && id == "" {
			return caddy.ExitCodeFailedStartup, errors.New("this is a mistyped or cut access token")
		}
		if !isToken {
			id = arg
		}
		var token access.RevokedToken
		answer, err := c.ask(http.MethodDelete, tokensPath+"/"+url.PathEscape(id), nil, &token)
		if err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		if !c.printJSON(answer) {
			c.say("%s token %s for %s is revoked.", token.Kind, token.ID, holder(token.Token))
			for _, other := range token.AlsoEnded {
				c.say("%s token %s for %s ends too, since it was made with %s.", other.Kind, other.ID, holder(other), other.MadeWith)
			}
		}
	}
	return caddy.ExitCodeSuccess, nil
}
