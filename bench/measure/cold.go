package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"
)

// counts are the numbers of requests and bytes that upstream has served.
type counts struct{ Requests, Bytes int64 }

// counts requests the counts of upstream.
func (s *settings) counts() (counts, error) {
	var c counts
	body, err := get(s.upstream+"/stats", func(*http.Request) {})
	if err == nil {
		err = json.Unmarshal(body, &c)
	}
	return c, err
}

// cold measures many clients that request a blob at once that is not cached.
func cold(s *settings) error {
	im, err := s.image("latest")
	if err != nil {
		return err
	}
	// For comparison, one client and all clients pull directly from upstream.
	direct := im.blob(s.upstream, s.upstreamFor)
	one, err := s.race(direct, 1)
	if err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	all, err := s.race(direct, s.clients)
	if err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	before, err := s.counts()
	if err != nil {
		return err
	}
	var got *race
	use, err := s.watch(func() error {
		var err error
		got, err = s.race(im.blob(s.proxy, s.repository), s.clients)
		return err
	})
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	after, err := s.counts()
	if err != nil {
		return err
	}
	fmt.Printf("cold, %d clients on one blob of %d MB:\n", s.clients, im.size/1e6)
	fmt.Printf("  upstream     %.4f of the size, in %d request(s)\n", float64(after.Bytes-before.Bytes)/float64(im.size), after.Requests-before.Requests)
	fmt.Printf("  first byte   worst %.1f ms, %.1f ms more than one client directly (%.1f ms); median %.1f ms; all clients directly: worst %.1f ms\n",
		ms(got.worst()), ms(got.worst()-one.worst()), ms(one.worst()), ms(got.middle()), ms(all.worst()))
	fmt.Printf("  memory       %.1f MiB anonymous above idle (%.1f), sampled; %.1f MiB resident above idle by VmHWM\n",
		mib(use.anonymous-use.idleAnonymous), mib(use.idleAnonymous), mib(use.peak-use.idle))
	fmt.Printf("  total        %.2f s; directly %.2f s for one client (%.2f times), %.2f s for all (%.2f times); %s CPU s/GB delivered\n",
		got.took.Seconds(), one.took.Seconds(), got.took.Seconds()/one.took.Seconds(),
		all.took.Seconds(), got.took.Seconds()/all.took.Seconds(), perGB(use.cpu, im.size*int64(s.clients)))
	return nil
}

// ms returns a duration in milliseconds.
func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// mib returns a size in MiB.
func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// race is the result of clients that start at once.
type race struct {
	firstBytes []time.Duration // of the clients, sorted
	took       time.Duration
}

func (r *race) worst() time.Duration  { return r.firstBytes[len(r.firstBytes)-1] }
func (r *race) middle() time.Duration { return r.firstBytes[len(r.firstBytes)/2] }

// race starts n clients at once, over open connections.
func (s *settings) race(blob request, n int) (*race, error) {
	conns := make([]*net.TCPConn, n)
	for i := range conns {
		conn, err := blob.dial()
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		conns[i] = conn
	}
	r := &race{firstBytes: make([]time.Duration, n)}
	begin := time.Now()
	err := together(n, func(i int) error {
		d, err := blob.on(conns[i], s.copying)
		r.firstBytes[i] = d.firstByte
		return err
	})
	r.took = time.Since(begin)
	slices.Sort(r.firstBytes)
	return r, err
}

// usage is the CPU time and memory of the proxy during a measurement. Memory is in
// bytes: RssAnon sampled, and VmRSS and its peak.
type usage struct {
	cpu                      time.Duration
	idleAnonymous, anonymous int64
	idle, peak               int64
}

// watch calls a function and returns the usage of the proxy meanwhile.
func (s *settings) watch(do func() error) (*usage, error) {
	time.Sleep(time.Second) // until the proxy is idle
	u := &usage{}
	var err error
	if u.idleAnonymous, err = memory(s.proxyPID, "RssAnon"); err != nil {
		return nil, err
	}
	if u.idle, err = memory(s.proxyPID, "VmRSS"); err != nil {
		return nil, err
	}
	if err = resetPeak(s.proxyPID); err != nil {
		return nil, err
	}
	before, err := cpuTime([]int{s.proxyPID})
	if err != nil {
		return nil, err
	}
	stop := watchAnonymous(s.proxyPID)
	err = do()
	u.anonymous = stop()
	if err != nil {
		return nil, err
	}
	after, err := cpuTime([]int{s.proxyPID})
	u.cpu = after - before
	if err == nil {
		u.peak, err = memory(s.proxyPID, "VmHWM")
	}
	return u, err
}
