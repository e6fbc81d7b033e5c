//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

const (
	// insideVar passes the temporary folder to the test binary in its namespaces.
	insideVar = "DEPENDENCY_PROXY_E2E_DIR"
	// caddyVar names the Caddy binary to test.
	caddyVar = "DEPENDENCY_PROXY_E2E_CADDY"
	// previousVar and singleVar name Caddy binaries to upgrade from; see [commitBinary].
	previousVar = "DEPENDENCY_PROXY_E2E_PREVIOUS"
	singleVar   = "DEPENDENCY_PROXY_E2E_SINGLE"
)

// tools must all be installed: a test that cannot run is a failure.
var tools = []string{
	"registry", "olareg", "pebble", "versitygw", "docker", "dockerd", "containerd", "ctr", "containerd2", "ctr2",
	"podman", "buildah", "skopeo", "crane", "regctl", "oras", "helm", "cosign", "conformance", "ip", "go",
	"busybox", "slapd", "slapadd", "ldapmodify", "chromium", "mount", "mkfs.ext4", "iptables", "ss", "strace", "git", "tar",
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(insideVar); dir != "" {
		os.Exit(runInside(m, dir))
	}
	code, err := runOutside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// runOutside builds the binaries and runs the tests in namespaces of their own.
func runOutside() (int, error) {
	if err := checkTools(); err != nil {
		return 0, err
	}
	caddy, err := caddyBinary()
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	previous, err := commitBinary(dir, previousCommit, previousVar)
	if err != nil {
		return 0, err
	}
	single, err := commitBinary(dir, singleCommit, singleVar)
	if err != nil {
		return 0, err
	}
	tmp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o777); err != nil {
		return 0, err
	}
	// The death signal below is sent when the starting thread ends, not the process.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVar+"="+dir, caddyVar+"="+caddy, previousVar+"="+previous, singleVar+"="+single, "TMPDIR="+tmp)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Run(); cmd.ProcessState == nil {
		return 0, fmt.Errorf("starting the tests in their own namespaces: %w", err)
	}
	return cmd.ProcessState.ExitCode(), nil
}

func checkTools() error {
	var missing []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if os.Geteuid() != 0 {
		missing = append(missing, "root")
	}
	if missing != nil {
		return fmt.Errorf("missing: %s (.ci/install installs the programs)", strings.Join(missing, ", "))
	}
	return nil
}

func caddyBinary() (string, error) {
	if path := os.Getenv(caddyVar); path != "" {
		return filepath.Abs(path)
	}
	build := exec.Command("../xcaddy.sh", "build")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("xcaddy.sh build: %w", err)
	}
	return filepath.Abs("../caddy")
}

// parallel is the number of parallel tests at a time, whatever the number of cores: they
// wait most of the time.
const parallel = "8"

// runInside starts the shared stack, runs the tests and stops the stack.
func runInside(m *testing.M, dir string) int {
	if err := isolate(dir); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: isolating:", err)
		return 1
	}
	var err error
	lab, err = newLab(dir)
	if lab != nil {
		defer lab.stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: setting up:", err)
		return 1
	}
	if err := flag.Set("test.parallel", parallel); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return m.Run()
}
