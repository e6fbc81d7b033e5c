package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:      "dependency-proxy",
		Usage:     "<command>",
		Short:     "Shows the state of the dependency proxy, manages its access tokens and its cache, and explains its decisions",
		Long:      commandLong,
		CobraFunc: addCommands,
	})
}

var commandLong = `
Commands for sites with dependency_proxy. They use the admin API of the running
Caddy at '` + caddy.DefaultAdminListen + `'. Use --address to set another address, or
--config to take the address from a configuration file.

The exit status is 0 on success and 1 on failure. It is 3 if explain finds that
the pull would be denied, or if cache scrub has found damaged content.`

// exitNegative is the exit status of a command that has succeeded with a negative
// result: a pull that would be denied, or damaged content. Caddy uses 1 and 2 for
// other purposes.
const exitNegative = 3

// addCommands adds the commands below `caddy dependency-proxy`.
func addCommands(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.String("address", "", "Address of the administration API listener (if --config is not used)")
	flags.StringP("config", "c", "", "Configuration file (if --address is not used)")
	flags.StringP("adapter", "a", "", "Name of config adapter to apply (if --config is used)")
	flags.String("site", "", "Name of the site (if sites with different names are running)")
	flags.Bool("json", false, "Print the response of the admin API")
	token := &cobra.Command{Use: "token", Short: "Creates, lists and revokes access tokens"}
	cache := &cobra.Command{Use: "cache", Short: "Shows, fills and checks the cache"}
	for _, parent := range []*cobra.Command{root, token, cache} {
		// Otherwise a mistyped command would print help and succeed.
		parent.Args = cobra.NoArgs
		parent.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	token.AddCommand(tokenCreateCommand(), tokenListCommand(), tokenRevokeCommand())
	cache.AddCommand(cacheStatusCommand(), cacheScrubCommand(), cacheWarmCommand(), cacheMissingCommand())
	root.AddCommand(token, cache, explainCommand(), statusCommand())
}

// command is a command that is being run.
type command struct {
	*cobra.Command
	flags caddycmd.Flags
	args  []string
}

// withRun sets the function that runs a command and returns the exit status.
func withRun(cmd *cobra.Command, run func(command) (int, error)) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cmd.SilenceErrors, cmd.SilenceUsage = true, true // Caddy prints errors itself
		return caddycmd.WrapCommandFuncForCobra(func(flags caddycmd.Flags) (int, error) {
			return run(command{cmd, flags, args})
		})(cmd, args)
	}
	return cmd
}

// flagIfSet returns the value of a flag, or nil if the flag is not set.
func (c command) flagIfSet(flag string) *string {
	if !c.Flags().Changed(flag) {
		return nil
	}
	value := c.flags.String(flag)
	return &value
}

// rejectEmpty returns an error if one of the flags is set to an empty value. A script
// does so with an unset variable, and the default would be wider than it intended.
func (c command) rejectEmpty(flags ...string) error {
	for _, name := range flags {
		if f := c.Flags().Lookup(name); f != nil && f.Changed && (f.Value.String() == "" || f.Value.String() == "[]") {
			return fmt.Errorf("--%s is empty; give it a value, or leave it out", name)
		}
	}
	return nil
}

// errBroken is the error of a connection that was closed, as it can be while Caddy is
// reloaded.
var errBroken = errors.New("the connection to Caddy was closed; run the command again")

// maxTries is how often a request is sent that can be repeated, while the connection
// breaks.
const maxTries = 4

// triesPause is the time between two of these tries. Tests shorten it.
var triesPause = time.Second

// repeat calls do again if it returns [errBroken].
func repeat(do func() error) error {
	err := do()
	for tries := 1; errors.Is(err, errBroken) && tries < maxTries; tries++ {
		time.Sleep(triesPause)
		err = do()
	}
	return err
}

// request sends a request to the admin API, a GET again if the connection breaks. It
// decodes the response and returns it as it was received.
func (c command) request(method, uri string, body, into any) (content []byte, err error) {
	send := func() error {
		content, err = c.requestOnce(method, uri, body)
		return err
	}
	if method != http.MethodGet {
		err = send()
	} else {
		err = repeat(send)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return nil, errVersion
	}
	return content, nil
}

func (c command) requestOnce(method, uri string, body any) ([]byte, error) {
	response, err := c.open(method, uri, body)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the response: %w: %w", errBroken, err)
	}
	return content, nil
}

var errVersion = errors.New("unexpected response: the admin API is not that of a dependency proxy of this version")

// open sends a request to the admin API and returns the response, whose body the caller
// must close.
func (c command) open(method, uri string, body any) (*http.Response, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(c.flags.String("address"), nil, c.flags.String("config"), c.flags.String("adapter"))
	if err != nil {
		return nil, fmt.Errorf("determining the admin API address: %w", err)
	}
	var reader io.Reader
	if body != nil {
		content, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encoding the request: %w", err)
		}
		reader = bytes.NewReader(content)
	}
	// Each call uses a new client, so its connection could not be reused.
	response, err := caddycmd.AdminAPIRequest(address, method, uri, http.Header{"Connection": {"close"}}, reader)
	if err != nil && (strings.HasSuffix(err.Error(), "EOF") || strings.HasSuffix(err.Error(), "connection reset by peer")) {
		return nil, fmt.Errorf("%w: %w", errBroken, err)
	}
	return response, err
}

// printJSON prints the response if the flag json is set, and reports whether it is.
func (c command) printJSON(response []byte) bool {
	set := c.flags.Bool("json")
	if set {
		_, _ = c.OutOrStdout().Write(response)
	}
	return set
}

// notify prints a message to standard error, since scripts read standard output.
func (c command) notify(format string, args ...any) {
	_, _ = fmt.Fprintf(c.ErrOrStderr(), format+"\n", args...)
}

// printable returns a text on one line for a terminal, which must not obey what others
// have written into it.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}
