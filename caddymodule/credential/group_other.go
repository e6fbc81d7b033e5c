//go:build !unix

package credential

import (
	"os"
	"os/exec"
)

// ownGroup does nothing: this system has no process groups.
func ownGroup(*exec.Cmd) {}

// killGroup kills the process, but not those that it has started.
func killGroup(process *os.Process) error { return process.Kill() }
