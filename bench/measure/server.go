package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// server is a Caddy process that measure has started.
type server struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has exited
}

// exec starts Caddy with a Caddyfile.
func (s *settings) exec(caddyfile string) (*server, error) {
	log, err := os.OpenFile(filepath.Join(filepath.Dir(s.data), "caddy.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	x := &server{
		cmd:  exec.Command(s.caddy, "run", "--config", caddyfile, "--adapter", "caddyfile"),
		done: make(chan struct{}),
	}
	x.cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+s.data, "XDG_CONFIG_HOME="+s.data, "BUCKET_SECRET="+bucketSecret)
	x.cmd.Stdout, x.cmd.Stderr = log, log
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := x.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = x.cmd.Wait()
		close(x.done)
	}()
	return x, nil
}

func (x *server) pid() int { return x.cmd.Process.Pid }

// ended reports whether the process has exited.
func (x *server) ended() bool {
	select {
	case <-x.done:
		return true
	default:
		return false
	}
}

// stop shuts the process down and waits for its end.
func (x *server) stop() {
	_ = x.cmd.Process.Signal(syscall.SIGTERM)
	<-x.done
}

// await sends a request every millisecond until there is a response of any status.
func (x *server) await(address string) error {
	var err error
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(time.Millisecond) {
		var resp *http.Response
		if resp, err = http.Get(address); err == nil {
			return resp.Body.Close()
		}
		if x.ended() {
			return errors.New("caddy has exited")
		}
	}
	return fmt.Errorf("caddy does not respond: %w", err)
}

// settle waits until the process uses almost no CPU, and returns the CPU time that it
// has used and whether it came to rest before the patience was over.
func (x *server) settle(patience time.Duration) (used time.Duration, rests bool, err error) {
	since := time.Now()
	for begin := since; time.Since(begin) < patience; time.Sleep(50 * time.Millisecond) {
		now, err := cpuTime([]int{x.pid()})
		if err != nil {
			return 0, false, err
		}
		if now-used > 2*tick { // tolerates occasional timers
			since, used = time.Now(), now
		}
		if time.Since(since) > quiet {
			return used, true, nil
		}
	}
	return used, false, nil
}
