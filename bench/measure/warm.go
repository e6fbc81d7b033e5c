package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// side is one of the compared servers.
type side struct {
	name string
	pids []int
	do   func() error // downloads size bytes
	size int64

	rate  []float64     // GB/s by round
	cpu   time.Duration // of all rounds, because the kernel counts in ticks
	bytes int64
}

// warm compares the proxy and nginx, which serve the same file.
func warm(s *settings) error {
	im, err := s.image("latest")
	if err != nil {
		return err
	}
	nginx, err := family(s.nginxPID)
	if err != nil {
		return err
	}
	raw := func(r request) func() error {
		return func() error {
			_, err := r.do(s.copying)
			return err
		}
	}
	a := &side{name: "proxy", pids: []int{s.proxyPID}, do: raw(im.blob(s.proxy, s.repository)), size: im.size}
	b := &side{name: "nginx", pids: nginx, do: raw(im.file(s.nginx)), size: im.size}
	for round := range s.rounds {
		order := []*side{a, b}
		if round%2 == 1 {
			order = []*side{b, a}
		}
		for _, x := range order {
			if err := x.round(s); err != nil {
				return fmt.Errorf("%s: %w", x.name, err)
			}
		}
	}
	how := "discarding in the kernel"
	if s.copying {
		how = "copying"
	}
	fmt.Printf("warm, %d client(s) %s, %d rounds of %d MB, medians:\n", s.clients, how, s.rounds, int64(s.clients*s.pulls)*im.size/1e6)
	for _, x := range []*side{a, b} {
		fmt.Printf("  %-6s %6.2f GB/s  best %.2f  %s CPU s/GB\n", x.name, median(x.rate), slices.Max(x.rate), perGB(x.cpu, x.bytes))
	}
	fmt.Printf("  ratio  %s of nginx's throughput, %.2f of its CPU\n", a.against(b), float64(a.cpu)/float64(b.cpu))
	return nil
}

// against returns the ratio of the rates of two sides, and how it varies between rounds.
func (x *side) against(other *side) string {
	pairs := slices.Sorted(slices.Values(ratios(x.rate, other.rate)))
	return fmt.Sprintf("%6.3f (median of pairs %.3f, quartiles %.2f to %.2f)", median(x.rate)/median(other.rate),
		median(pairs), pairs[len(pairs)/4], pairs[(3*len(pairs)-1)/4])
}

// round lets all clients pull and records the results.
func (x *side) round(s *settings) error {
	before, err := cpuTime(x.pids)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := together(s.clients, func(int) error {
		for range s.pulls {
			if err := x.do(); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	took := time.Since(begin)
	after, err := cpuTime(x.pids)
	if err != nil {
		return err
	}
	bytes := int64(s.clients*s.pulls) * x.size
	x.rate = append(x.rate, float64(bytes)/gb/took.Seconds())
	x.cpu += after - before
	x.bytes += bytes
	return nil
}

// together calls a function n times concurrently.
func together(n int, do func(i int) error) error {
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { errs[i] = do(i) })
	}
	group.Wait()
	return errors.Join(errs...)
}
