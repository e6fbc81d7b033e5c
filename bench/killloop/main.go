// Command killloop repeatedly kills Caddy with SIGKILL while it fills its cache, and
// starts it again on the same cache. Meanwhile clients pull whole blobs and ranges,
// fast and slowly, and some of them leave early.
//
//	go run ./bench/killloop -caddy ./caddy -kills 200
//
// It fails if a complete body or a stored file has wrong content, if a pull fails
// although Caddy was not killed, or if temporary files of interrupted downloads
// remain after a start.
//
// Upstream always has new content, and the cache holds only part of it, so fills,
// hits and evictions occur until the end. If strace is installed, some of the kills
// happen at a rename or a sync. The command runs on Linux only and does not need
// root.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/bench/registry"
)

type settings struct {
	caddy, strace string
	kills         int
	seed          uint64
	limit         time.Duration
	rate          float64
	clients       int
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("killloop: ")
	var s settings
	strace, _ := exec.LookPath("strace")
	flag.StringVar(&s.caddy, "caddy", "./caddy", "the binary to kill")
	flag.StringVar(&s.strace, "strace", strace, "strace, to kill at a rename or a sync; if empty, all kills happen at a random moment")
	flag.IntVar(&s.kills, "kills", 200, "number of kills while the cache is being filled")
	flag.Uint64Var(&s.seed, "seed", rand.Uint64(), "seed of the random moments and pulls")
	flag.DurationVar(&s.limit, "limit", 20*time.Minute, "time limit of the whole run")
	flag.Float64Var(&s.rate, "rate", 40, "rate of each connection to upstream in MiB/s")
	flag.IntVar(&s.clients, "clients", 6, "number of concurrent clients")
	flag.Parse()
	if err := run(&s); err != nil {
		log.Fatal(err)
	}
}

// sizes are the sizes of the blobs in bytes, from one that is sent at once to one
// that takes more than a second.
var sizes = []int64{24<<20 + 13, 3 << 20, 48 << 20, 9<<20 + 1, 17<<20 - 5, 100<<10 + 1}

// run prepares upstream and the cache, and runs the loop.
func run(s *settings) error {
	dir, err := os.MkdirTemp("", "killloop-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	upstream := registry.New(registry.Options{Sizes: sizes, Rate: s.rate * (1 << 20)})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := upstream.Server("")
	go func() { _ = server.Serve(listener) }()
	defer server.Close()

	l := &loop{
		settings: s, dir: dir, upstream: upstream,
		rand:    rand.New(rand.NewPCG(s.seed, 0)),
		checked: map[stored]bool{},
		tally:   &tally{},
	}
	if err := l.configure(listener.Addr().String()); err != nil {
		return err
	}
	fmt.Printf("killing %s %d times, seed %d\n", s.caddy, s.kills, s.seed)
	begin := time.Now()
	err = l.until(begin.Add(s.limit))
	if err == nil {
		err = l.last()
	}
	l.print(time.Since(begin))
	return errors.Join(err, l.verdict())
}

// loop is the state that outlives a process of Caddy.
type loop struct {
	*settings
	dir      string
	address  string // of the proxy
	upstream *registry.Registry
	rand     *rand.Rand

	newest                 atomic.Int64 // the newest image that was requested
	midFill, other, byCall int          // kills during a fill, at other times, and at a system call
	checked                map[stored]bool
	damaged                []string
	leftovers              int      // temporary files before the last start
	remaining              []string // temporary files after it
	tally                  *tally
}

const caddyfile = `{
	admin off
	auto_https off
	storage file_system %[1]s/data
}
http://%[2]s {
	bind 127.0.0.1
	dependency_proxy {
		storage filesystem %[1]s/cache {
			max_size 192MiB
		}
		user killer %[3]s
		group acme {
			members killer
		}
		upstream registry.example {
			endpoint http://%[4]s
			allow_private on
		}
	}
}
`

// configure writes the Caddyfile.
func (l *loop) configure(upstream string) error {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	l.address = free.Addr().String()
	if err := free.Close(); err != nil {
		return err
	}
	hash, err := exec.Command(l.caddy, "hash-password", "--plaintext", password, "--bcrypt-cost", "4").Output()
	if err != nil {
		return fmt.Errorf("%s hash-password: %w", l.caddy, err)
	}
	return os.WriteFile(l.config(), fmt.Appendf(nil, caddyfile, l.dir, l.address, hash, upstream), 0o600)
}

func (l *loop) config() string { return filepath.Join(l.dir, "Caddyfile") }
func (l *loop) cache() string  { return filepath.Join(l.dir, "cache") }

// until starts and kills Caddy until the number of kills is reached.
func (l *loop) until(deadline time.Time) error {
	for life := 1; l.midFill < l.kills; life++ {
		if time.Now().After(deadline) {
			return fmt.Errorf("time limit exceeded after %d kills", l.midFill)
		}
		if err := l.live(life); err != nil {
			return fmt.Errorf("life %d: %w", life, err)
		}
		if err := l.checkStored(); err != nil {
			return err
		}
	}
	return nil
}

// live starts Caddy, pulls, and kills it.
func (l *loop) live(life int) error {
	at := 0 // the number of the system call that kills, 0 for none
	if l.strace != "" && life%8 == 0 {
		at = 1 + l.rand.IntN(3) // strace counts in each thread
	}
	caddy, err := l.start(at)
	if err != nil {
		return err
	}
	defer caddy.kill()
	if err := caddy.await(l.address); err != nil {
		if at > 0 && caddy.ended() {
			l.byCall++ // during the start of Caddy
			return nil
		}
		return err
	}
	stop := l.pull(caddy)
	defer stop()
	return l.wait(caddy, at > 0)
}

// wait kills Caddy at a random moment, or waits until a system call does.
func (l *loop) wait(caddy *process, byCall bool) error {
	moment := time.After(time.Duration(l.rand.Int64N(int64(800 * time.Millisecond))))
	if byCall {
		moment = time.After(3 * time.Second)
	}
	select {
	case <-moment:
	case <-caddy.done:
		if !byCall {
			return fmt.Errorf("caddy exited although it was not killed:\n%s", caddy.tail())
		}
		l.byCall++
		return nil
	}
	if l.rand.IntN(5) > 0 {
		for range 1000 { // at most a second, until upstream is sending
			if l.upstream.Stats().Active > 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	filling := l.upstream.Stats().Active > 0
	caddy.kill()
	if filling {
		l.midFill++
	} else {
		l.other++
	}
	return nil
}

// last starts Caddy once more and checks that it removes temporary files and that
// every pull succeeds.
func (l *loop) last() error {
	before, err := l.temporary()
	if err != nil {
		return err
	}
	l.leftovers = len(before)
	caddy, err := l.start(0)
	if err != nil {
		return err
	}
	defer caddy.kill()
	if err := caddy.await(l.address); err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if l.remaining, err = l.temporary(); err != nil {
			return err
		}
		if len(l.remaining) == 0 || time.Now().After(deadline) {
			break
		}
	}
	l.pullAll(caddy)
	caddy.stop()
	clear(l.checked)
	return l.checkStored()
}

// verdict returns an error for each requirement that was violated.
func (l *loop) verdict() error {
	var errs []error
	for _, goal := range []struct {
		count int
		what  string
	}{
		{l.tally.wrong, "bodies with wrong bytes"},
		{l.tally.failed, "pulls failed without a kill"},
		{len(l.damaged), "stored files do not match their digest"},
		{len(l.remaining), "temporary files remained after a start"},
	} {
		if goal.count > 0 {
			errs = append(errs, fmt.Errorf("%d %s", goal.count, goal.what))
		}
	}
	return errors.Join(errs...)
}

// print prints the counts.
func (l *loop) print(took time.Duration) {
	t := l.tally
	fmt.Printf("kills          %d while upstream was sending, %d otherwise, %d at a rename or a sync; %.0f s\n", l.midFill, l.other, l.byCall, took.Seconds())
	fmt.Printf("bodies         %d complete (%d whole, %d from the cache), %.1f GB; %d broken by a kill, %d abandoned by the client\n",
		t.whole+t.parts, t.whole, t.hits, float64(t.bytes)/1e9, t.broken, t.left)
	fmt.Printf("wrong          %d bodies with wrong bytes, %d pulls failed without a kill\n", t.wrong, t.failed)
	fmt.Printf("stored         %d files checked in the end, %d wrong at any time\n", len(l.checked), len(l.damaged))
	fmt.Printf("temporary      %d files before the last start, %d after it\n", l.leftovers, len(l.remaining))
	for _, what := range append(t.examples, l.damaged...) {
		fmt.Println("  " + what)
	}
}

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
