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

// process is one life of Caddy.
type process struct {
	cmd    *exec.Cmd
	log    string
	done   chan struct{}
	dying  atomic.Bool
	byCall bool
}

// start starts Caddy; with a number, so that its call of that number to rename or
// to sync kills it, just before the kernel does what is asked.
func (l *loop) start(call int) (*process, error) {
	argv := []string{l.caddy, "run", "--config", l.config(), "--adapter", "caddyfile"}
	if call > 0 {
		calls := "rename,renameat,renameat2"
		if l.rand.IntN(2) == 0 {
			calls = "fsync,fdatasync"
		}
		// With --seccomp-bpf, strace injects no signals.
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
	// A group, since strace is not what has to die.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The death signal is sent when the starting thread ends, not the process.
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

// kill ends the process in the middle of whatever it does.
func (p *process) kill() {
	p.dying.Store(true)
	if !p.ended() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	}
	<-p.done
}

// stop lets it end by itself.
func (p *process) stop() {
	p.dying.Store(true)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.kill()
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) killed() bool { return p.dying.Load() || p.ended() }

// diesNow tells whether a pull that has failed may have failed for that reason.
// Where a call kills, the clients may see it first.
func (p *process) diesNow() bool {
	if p.byCall && !p.killed() {
		select {
		case <-p.done:
		case <-time.After(500 * time.Millisecond):
		}
	}
	return p.killed()
}

// await waits until Caddy listens.
func (p *process) await(address string) error {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return conn.Close()
		}
		if p.ended() {
			return fmt.Errorf("caddy ended at its start:\n%s", p.tail())
		}
	}
	return errors.New("caddy does not listen")
}

// tail is the end of what Caddy has written.
func (p *process) tail() string {
	data, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
