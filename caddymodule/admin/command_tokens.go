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
		Short: "Creates an access token and prints it",
		Long: `
Creates an access token and prints it. The token is the password of a login with
any user name. It is not stored and cannot be shown again.

With --account, the token stands for that account, limited to the groups of
--group if there are any. With --group alone, it is a deploy token, which can pull
from that group and its subgroups. With --group and --role, it has that role in
the group: member, maintainer or owner.

With the scope pull, a token can only pull. With the scope manage, it can do
everything that its account or role can. The default is pull, and manage for a
token with the role maintainer or owner.`,
		Example: `  $ caddy dependency-proxy token create --group acme --name "runner 7" | docker login registry.example.com -u ci --password-stdin
  $ caddy dependency-proxy token create --account alice --lifetime 30d`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().String("account", "", "Account that the token stands for: DIRECTORY:NAME, or a name as in the configuration")
	cmd.Flags().StringSlice("group", nil, "Group of the token, or groups that it is limited to")
	cmd.Flags().String("role", "", "Role in the group: member, maintainer or owner")
	cmd.Flags().StringSlice("scope", nil, "Scope of the token: pull or manage")
	cmd.Flags().String("name", "", "Description of the token")
	cmd.Flags().String("lifetime", "", "Lifetime of the token: 90d by default, at most 366d")
	return withRun(cmd, runTokenCreate)
}

func runTokenCreate(c command) (int, error) {
	request, err := requestOf(c)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	var created CreatedToken
	response, err := c.request(http.MethodPost, tokensPath, request, &created)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if c.printJSON(response) {
		return caddy.ExitCodeSuccess, nil
	}
	c.notify("%s token %s for %s, valid until %s. It is shown only once:", created.Kind, created.ID, holder(created.Token), created.Expires.Format(time.DateOnly))
	_, err = fmt.Fprintln(c.OutOrStdout(), created.Secret)
	return caddy.ExitCodeSuccess, err
}

// requestOf returns the request that the flags of create describe.
func requestOf(c command) (createRequest, error) {
	request := createRequest{Site: c.flagIfSet("site")}
	request.Account, request.Role, request.Name = c.flags.String("account"), c.flags.String("role"), c.flags.String("name")
	request.Groups, _ = c.Flags().GetStringSlice("group")
	if err := c.rejectEmpty("account", "group", "role", "scope", "lifetime"); err != nil {
		return request, err
	}
	scopes, _ := c.Flags().GetStringSlice("scope")
	for _, scope := range scopes {
		request.Scopes = append(request.Scopes, accesstoken.Scope(scope))
	}
	switch {
	case request.Account != "":
		request.Kind = accesstoken.Personal
	case len(request.Groups) == 0:
		return request, errors.New("missing account or group; use --account NAME or --group PATH")
	case request.Role != "":
		request.Kind = accesstoken.Group
	default:
		request.Kind = accesstoken.Deploy
	}
	if text := c.flags.String("lifetime"); text != "" {
		lifetime, err := caddy.ParseDuration(text)
		if err != nil || lifetime <= 0 {
			return request, fmt.Errorf("--lifetime: invalid duration '%s'; write one as in 12h or 30d", text)
		}
		request.Lifetime = caddy.Duration(lifetime)
	}
	return request, nil
}

func tokenListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [--account <name>] [--group <path>]",
		Short: "Lists access tokens",
		Long:  "Lists access tokens without their secrets, the newest first. Expired tokens are listed for 30 days.",
		Args:  cobra.NoArgs,
	}
	cmd.Flags().String("account", "", "Only tokens of this account: DIRECTORY:NAME, or a name in any directory")
	cmd.Flags().String("group", "", "Only tokens of this group or limited to it")
	return withRun(cmd, runTokenList)
}

func runTokenList(c command) (int, error) {
	query := url.Values{}
	for _, name := range []string{"site", "account", "group"} {
		if value := c.flagIfSet(name); value != nil {
			query.Set(name, *value)
		}
	}
	var list TokenList
	response, err := c.request(http.MethodGet, tokensPath+"?"+query.Encode(), nil, &list)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if c.printJSON(response) {
		return caddy.ExitCodeSuccess, nil
	}
	table := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "ID\tKIND\tFOR\tNAME\tCREATED\tEXPIRES\tLAST USED\tSTATE")
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

// state describes whether a token is valid.
func state(t access.ListedToken) string {
	switch err := t.Valid(time.Now()); {
	case t.Ended != "":
		return "ended: " + t.Ended
	case errors.Is(err, accesstoken.ErrRevoked):
		return "revoked"
	case err != nil:
		return "expired"
	}
	return "valid"
}

// holder describes the account or the role of a token, and its groups and site.
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
	return withRun(&cobra.Command{
		Use:   "revoke <id or token>...",
		Short: "Revokes access tokens",
		Long: `
Revokes access tokens, each given by its ID or as the token itself. The node that
receives the request rejects them at once, other nodes with the same storage
within 30 seconds. Tokens that were created with a revoked token end too and are
listed.`,
		Args: cobra.MinimumNArgs(1),
	}, runTokenRevoke)
}

func runTokenRevoke(c command) (int, error) {
	for _, arg := range c.args {
		// The token itself must not be in the URL, which is logged.
		id, isToken := accesstoken.Parse(arg)
		if isToken && id == "" {
			return caddy.ExitCodeFailedStartup, errors.New("malformed access token; give its ID or the whole token")
		}
		if !isToken {
			id = arg
		}
		var token access.RevokedToken
		response, err := c.request(http.MethodDelete, tokensPath+"/"+url.PathEscape(id), nil, &token)
		if err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		if !c.printJSON(response) {
			c.notify("%s token %s for %s is revoked.", token.Kind, token.ID, holder(token.Token))
			for _, other := range token.AlsoEnded {
				c.notify("%s token %s for %s ends too, because it was created with %s.", other.Kind, other.ID, holder(other), other.MadeWith)
			}
		}
	}
	return caddy.ExitCodeSuccess, nil
}
