package credential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"
)

const (
	maxOutput = 64 << 10 // of a program, in bytes

	// leftoverDelay is how long the output of a program may stay open in other
	// processes after the program has ended.
	leftoverDelay = 500 * time.Millisecond
)

// variable is the grammar of the name of an environment variable.
var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// placeholder matches a placeholder of Caddy, but not a template such as {{.Token}}.
var placeholder = regexp.MustCompile(`\{\$?[A-Za-z][A-Za-z0-9_]*(\.[^{}]*)?\}`)

// errOutput is the error of a program that prints too much.
var errOutput = fmt.Errorf("it printed more than %d KiB", maxOutput>>10)

// program is a command that runs without a shell.
type program struct {
	path string // absolute
	args []string
	env  []string // names of variables that it receives, beside PATH and HOME
}

// checkEnv checks the names of environment variables.
func checkEnv(names []string) error {
	for _, name := range names {
		if !variable.MatchString(name) {
			return errors.New("an `env` line lists only the names of variables, whose values come from the environment of Caddy; write for example `env AWS_REGION`")
		}
	}
	return nil
}

// checkPath checks the path of a file in a line of the configuration.
func checkPath(line, path string) error {
	if !filepath.IsAbs(path) || placeholder.MatchString(path) {
		return fmt.Errorf("%s: write an absolute path without placeholders", line)
	}
	return nil
}

// run runs the program and returns what it prints. The program ends, with its
// process group, when ctx does, when it prints too much, and at the latest when run
// returns. Its standard error output is discarded. Errors do not contain its
// output.
func (p *program) run(ctx context.Context, input io.Reader) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, p.path, p.args...)
	cmd.Env = p.environment()
	cmd.Stdin = input
	cmd.Stdout = writer(func(data []byte) (int, error) {
		if output.Len()+len(data) > maxOutput {
			cancel(errOutput)
			return 0, errOutput
		}
		return output.Write(data)
	})
	cmd.WaitDelay = leftoverDelay
	ownGroup(cmd)
	cmd.Cancel = func() error { return killGroup(cmd.Process) }
	err := cmd.Start()
	if err == nil {
		err = cmd.Wait()
		_ = killGroup(cmd.Process) // what the program has started and not detached
	}
	name := filepath.Base(p.path)
	var exit *exec.ExitError
	switch {
	case errors.Is(context.Cause(ctx), errOutput):
		return nil, fmt.Errorf("%s: %w", name, errOutput)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s did not end within %v", name, lookTimeout)
	case errors.As(err, &exit):
		return output.Bytes(), &exitError{name, exit.ExitCode()}
	case errors.Is(err, exec.ErrWaitDelay):
		return output.Bytes(), nil // another process has kept the output open
	case err != nil:
		return nil, fmt.Errorf("cannot run %s: %w", name, err)
	}
	return output.Bytes(), nil
}

// exitError is the error of a program that failed.
type exitError struct {
	name string
	code int
}

func (e *exitError) Error() string { return fmt.Sprintf("%s failed with exit code %d", e.name, e.code) }

// environment returns the variables that the program receives. It is never nil, for
// which package exec would pass on the whole environment.
func (p *program) environment() []string {
	environment := []string{}
	for _, name := range append([]string{"PATH", "HOME"}, p.env...) {
		if value, ok := os.LookupEnv(name); ok {
			environment = append(environment, name+"="+value)
		}
	}
	return environment
}

// writer implements [io.Writer] by a function.
type writer func([]byte) (int, error)

func (w writer) Write(data []byte) (int, error) { return w(data) }
