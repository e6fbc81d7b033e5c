package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:      "dependency-proxy",
		Usage:     "<command>",
		Short:     "Makes access tokens for the dependency proxy, looks after its cache and explains its decisions",
		Long:      commandLong,
		CobraFunc: addCommands,
	})
}

var commandLong = `
Commands for sites that run dependency_proxy. They ask the Caddy that runs,
through its admin API at '` + caddy.DefaultAdminListen + `'. You may give another address
with --address, or the configuration that has it with --config.

A command ends with status 0 if it has done what it was told, and with 1 if
not; 3 is the bad news of explain, that the pull would be denied, and of cache
scrub, that something was damaged.`

// exitNo is the status of a command that has done its work and has bad news: a
// pull that would be denied, damaged content. Caddy has a meaning for 1 and 2.
const exitNo = 3

// addCommands adds the commands below `caddy dependency-proxy`.
func addCommands(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.String("address", "", "Address of the administration API listener (if --config is not used)")
	flags.StringP("config", "c", "", "Configuration file (if --address is not used)")
	flags.StringP("adapter", "a", "", "Name of config adapter to apply (if --config is used)")
	flags.String("site", "", "Name of the site, where several sites with different names are running")
	flags.Bool("json", false, "Print what the admin API answers")
	token := &cobra.Command{Use: "token", Short: "Makes, lists and revokes access tokens"}
	cache := &cobra.Command{Use: "cache", Short: "Shows what is cached, and checks it"}
	for _, parent := range []*cobra.Command{root, token, cache} {
		// Without these a mistyped command would print help and succeed.
		parent.Args = cobra.NoArgs
		parent.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	token.AddCommand(tokenCreateCommand(), tokenListCommand(), tokenRevokeCommand())
	cache.AddCommand(cacheStatusCommand(), cacheScrubCommand())
	root.AddCommand(token, cache, explainCommand())
}

// command is one command being carried out.
type command struct {
	*cobra.Command
	flags caddycmd.Flags
	args  []string
}

// runs makes a function what a command does. It returns the exit status.
func runs(cmd *cobra.Command, do func(command) (int, error)) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cmd.SilenceErrors, cmd.SilenceUsage = true, true // a status is no error to be told
		return caddycmd.WrapCommandFuncForCobra(func(flags caddycmd.Flags) (int, error) {
			return do(command{cmd, flags, args})
		})(cmd, args)
	}
	return cmd
}

// given is a flag's value, or nil if it is not there.
func (c command) given(flag string) *string {
	if !c.Flags().Changed(flag) {
		return nil
	}
	value := c.flags.String(flag)
	return &value
}

// notEmpty rejects flags that are given without a value, as a script does with a
// variable that is not set: a default would then be wider than what was meant.
func (c command) notEmpty(flags ...string) error {
	for _, name := range flags {
		if f := c.Flags().Lookup(name); f != nil && f.Changed && (f.Value.String() == "" || f.Value.String() == "[]") {
			return fmt.Errorf("--%s is empty; give it a value, or leave it out", name)
		}
	}
	return nil
}

// ask sends a request to the admin API, decodes the answer and returns it.
func (c command) ask(method, uri string, body, into any) ([]byte, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(c.flags.String("address"), nil, c.flags.String("config"), c.flags.String("adapter"))
	if err != nil {
		return nil, fmt.Errorf("couldn't determine admin API address: %w", err)
	}
	var reader io.Reader
	if body != nil {
		content, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encoding the request: %w", err)
		}
		reader = bytes.NewReader(content)
	}
	response, err := caddycmd.AdminAPIRequest(address, method, uri, http.Header{}, reader)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if err := json.Unmarshal(content, into); err != nil {
		return nil, errors.New("the answer is not from a dependency proxy of this version")
	}
	return content, nil
}

// printJSON prints an answer as it came, if that is wanted.
func (c command) printJSON(answer []byte) bool {
	wanted := c.flags.Bool("json")
	if wanted {
		_, _ = c.OutOrStdout().Write(answer)
	}
	return wanted
}

// say prints for people, on the standard error, so that what scripts read
// stands alone on the standard output.
func (c command) say(format string, args ...any) {
	_, _ = fmt.Fprintf(c.ErrOrStderr(), format+"\n", args...)
}
