package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"time"
)

// kinds are the kinds of clients in a crowd, with the part of a blob that each
// requests.
var kinds = []struct {
	name string
	span func(size int64, r *rand.Rand) (from, to int64)
}{
	{"whole", func(size int64, _ *rand.Rand) (from, to int64) { return 0, size }},
	{"rest", func(size int64, r *rand.Rand) (from, to int64) { return size/4 + r.Int64N(size/2), size }},
	{"short", func(size int64, r *rand.Rand) (from, to int64) {
		from = r.Int64N(size - size/1024)
		return from, from + size/1024
	}},
	{"suffix", func(size int64, r *rand.Rand) (from, to int64) { return size - 1 - r.Int64N(size/64), size }},
}

// crowd measures many clients that arrive within a second and request different
// parts of a blob that is not cached.
func crowd(s *settings) error {
	im, err := s.image("latest")
	if err != nil {
		return err
	}
	const arrival = time.Second
	at := make([]time.Duration, s.clients)
	r := rand.New(rand.NewPCG(1, 2)) // the same crowd in every run
	for i := range at {
		at[i] = time.Duration(r.Int64N(int64(arrival)))
	}
	slices.Sort(at)
	at[0] = 0
	direct, through := make([]request, s.clients), make([]request, s.clients)
	var bytes int64
	for i := range at {
		from, to := kinds[i%len(kinds)].span(im.size, r)
		direct[i] = im.blob(s.upstream, s.upstreamFor).part(from, to)
		through[i] = im.blob(s.proxy, s.repository).part(from, to)
		bytes += to - from
	}

	own, err := s.arrive(at, direct, true)
	if err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	var before counts
	var got []download
	var took time.Duration
	use, err := s.watch(func() (err error) {
		if before, err = s.counts(); err != nil {
			return err
		}
		begin := time.Now()
		got, err = s.arrive(at, through, false)
		took = time.Since(begin)
		return err
	})
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	after, err := s.counts()
	if err != nil {
		return err
	}
	fmt.Printf("crowd, %d clients within %s on one cold blob of %d MB:\n", s.clients, arrival, im.size/1e6)
	fmt.Printf("  upstream     %.4f of the size, in %d request(s)\n", float64(after.Bytes-before.Bytes)/float64(im.size), after.Requests-before.Requests)
	for i, kind := range kinds {
		proxy, upstream := firstBytes(got, i), firstBytes(own, i)
		fmt.Printf("  first byte   %-6s  median %8.1f ms, worst %8.1f ms; directly: median %.1f ms, worst %.1f ms\n",
			kind.name, median(proxy), slices.Max(proxy), median(upstream), slices.Max(upstream))
	}
	fmt.Printf("  memory       %.1f MiB anonymous above idle (%.1f), sampled; %.1f MiB resident above idle by VmHWM\n",
		mib(use.anonymous-use.idleAnonymous), mib(use.idleAnonymous), mib(use.peak-use.idle))
	fmt.Printf("  total        %.2f s for %.1f GB; %s CPU s/GB delivered\n", took.Seconds(), float64(bytes)/gb, perGB(use.cpu, bytes))
	return nil
}

// part returns the request for a part of the blob: a suffix if it is short and at
// the end, otherwise a range with or without an end.
func (r request) part(from, to int64) request {
	whole := r.size
	r.size = to - from
	switch {
	case r.size == whole:
	case to == whole && r.size <= whole/64:
		r.span = fmt.Sprintf("bytes=-%d", r.size)
	case to == whole:
		r.span = fmt.Sprintf("bytes=%d-", from)
	default:
		r.span = fmt.Sprintf("bytes=%d-%d", from, to-1)
	}
	return r
}

// arrive starts each client at its time, over an open connection. If look is set,
// clients leave after the first byte.
func (s *settings) arrive(at []time.Duration, asks []request, look bool) ([]download, error) {
	conns := make([]*net.TCPConn, len(asks))
	for i, ask := range asks {
		conn, err := ask.dial()
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		conns[i] = conn
	}
	got := make([]download, len(asks))
	begin := time.Now()
	return got, together(len(asks), func(i int) (err error) {
		time.Sleep(time.Until(begin.Add(at[i])))
		if look {
			got[i], _, err = asks[i].begin(conns[i])
			_ = conns[i].Close()
		} else {
			got[i], err = asks[i].on(conns[i], s.copying)
		}
		return err
	})
}

// firstBytes returns the times to the first byte of the clients of one kind in ms.
func firstBytes(all []download, kind int) []float64 {
	var times []float64
	for i := kind; i < len(all); i += len(kinds) {
		times = append(times, ms(all[i].firstByte))
	}
	return times
}
