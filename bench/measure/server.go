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

// server is a Caddy that measure starts itself, to measure its start.
type server struct {
	cmd  *exec.Cmd
	done chan struct{}
}

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
	x.cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+s.data, "XDG_CONFIG_HOME="+s.data)
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

func (x *server) ended() bool {
	select {
	case <-x.done:
		return true
	default:
		return false
	}
}

func (x *server) stop() {
	_ = x.cmd.Process.Signal(syscall.SIGTERM)
	<-x.done
}

// await asks every millisecond until there is an answer, whatever it says.
func (x *server) await(address string) error {
	var err error
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(time.Millisecond) {
		var resp *http.Response
		if resp, err = http.Get(address); err == nil {
			return resp.Body.Close()
		}
		if x.ended() {
			return errors.New("caddy has ended")
		}
	}
	return fmt.Errorf("caddy does not answer: %w", err)
}

// settle waits until the process uses no CPU to speak of, and returns what it has
// used; after patience it tells that it has not come to rest.
func (x *server) settle(patience time.Duration) (used time.Duration, rests bool, err error) {
	since := time.Now()
	for begin := since; time.Since(begin) < patience; time.Sleep(50 * time.Millisecond) {
		now, err := cpuTime([]int{x.pid()})
		if err != nil {
			return 0, false, err
		}
		if now-used > 2*tick { // a timer now and then is no work
			since, used = time.Now(), now
		}
		if time.Since(since) > quiet {
			return used, true, nil
		}
	}
	return used, false, nil
}
