package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// process is one process of Caddy.
type process struct {
	cmd    *exec.Cmd
	log    string
	done   chan struct{} // closed when the process has exited
	dying  atomic.Bool   // kill or stop was called
	byCall bool          // a system call kills the process
}

// start starts Caddy. If call is positive, the call with that number to rename or to
// sync a file kills it before the kernel executes the call.
func (l *loop) start(call int) (*process, error) {
	argv := []string{l.caddy, "run", "--config", l.config(), "--adapter", "caddyfile"}
	if call > 0 {
		calls := "rename,renameat,renameat2"
		if l.rand.IntN(2) == 0 {
			calls = "fsync,fdatasync"
		}
		// strace does not inject signals with --seccomp-bpf.
		argv = append([]string{
			l.strace, "-f", "-qq", "-o", os.DevNull, "-e", "trace=" + calls,
			"-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", calls, call),
		}, argv...)
	}
	p := &process{log: filepath.Join(l.dir, "caddy.log"), done: make(chan struct{}), byCall: call > 0}
	out, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+l.dir+"/data", "XDG_CONFIG_HOME="+l.dir+"/config")
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// A process group, so that a signal reaches Caddy and not only strace.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// Pdeathsig is sent when the thread that started the process ends.
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
			close(p.done)
		}
	}()
	return p, <-started
}

// kill kills the process and waits for its end.
func (p *process) kill() {
	p.dying.Store(true)
	if !p.ended() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	}
	<-p.done
}

// stop shuts the process down, and kills it after 20 seconds.
func (p *process) stop() {
	p.dying.Store(true)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.kill()
	}
}

// ended reports whether the process has exited.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// killed reports whether the process was killed or has exited.
func (p *process) killed() bool { return p.dying.Load() || p.ended() }

// mayExplainFailure reports whether a pull may have failed because the process was
// killed. If a system call kills the process, a client may notice before it does.
func (p *process) mayExplainFailure() bool {
	if p.byCall && !p.killed() {
		select {
		case <-p.done:
		case <-time.After(500 * time.Millisecond):
		}
	}
	return p.killed()
}

// await waits until Caddy accepts connections.
func (p *process) await(address string) error {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return conn.Close()
		}
		if p.ended() {
			return fmt.Errorf("caddy exited during its start:\n%s", p.tail())
		}
	}
	return errors.New("caddy does not accept connections")
}

// tail returns the last lines of Caddy's log.
func (p *process) tail() string {
	data, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
