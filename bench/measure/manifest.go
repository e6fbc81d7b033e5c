package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// target is one of the compared addresses.
type target struct {
	name, address string

	rate, p99, cpu []float64 // requests/s, ms, and CPU µs per request, by round
}

// manifest compares a manifest from the proxy with the same bytes from Caddy's
// respond in the same process.
func manifest(s *settings) error {
	im, err := s.image("latest")
	if err != nil {
		return err
	}
	path := "/v2/" + s.repository + "/manifests/latest"
	targets := []*target{
		{name: "manifest", address: s.proxy + path},
		{name: "respond", address: s.respond + path},
		{name: "respond, no braces", address: s.respondPlain + path},
	}
	for i, x := range targets {
		body, err := get(x.address, im.authorize)
		if err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
		if len(body) != len(im.manifest) || i < 2 && !bytes.Equal(body, im.manifest) {
			return fmt.Errorf("%s does not serve the manifest", x.name)
		}
	}
	for round := range s.rounds {
		for i := range targets { // each is first in turn
			x := targets[(i+round)%len(targets)]
			if err := x.round(s, im); err != nil {
				return fmt.Errorf("%s: %w", x.name, err)
			}
		}
	}
	fmt.Printf("manifest of %d bytes by tag, %d connections, %d rounds of %d s, medians:\n", len(im.manifest), s.clients, s.rounds, s.seconds)
	own := targets[0]
	for _, x := range targets {
		fmt.Printf("  %-20s %8.0f requests/s  p99 %6.2f ms  %6.1f µs CPU per request", x.name, median(x.rate), median(x.p99), median(x.cpu))
		if x != own {
			fmt.Printf("  the proxy reaches %.3f of it (median of pairs %.3f; by CPU %.3f)",
				median(own.rate)/median(x.rate), median(ratios(own.rate, x.rate)), median(x.cpu)/median(own.cpu))
		}
		fmt.Println()
	}
	return nil
}

var (
	wrkRate  = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	wrkCount = regexp.MustCompile(`(\d+) requests in`)
	wrkP99   = regexp.MustCompile(`99%\s+([\d.]+)(us|ms|s)`)
)

// round runs wrk once.
func (x *target) round(s *settings, im *image) error {
	r, err := http.NewRequest(http.MethodGet, x.address, nil)
	if err != nil {
		return err
	}
	im.authorize(r)
	args := []string{"-t", strconv.Itoa(s.wrkThreads), "-c", strconv.Itoa(s.clients), "-d", strconv.Itoa(s.seconds) + "s", "--latency"}
	for name, values := range r.Header {
		args = append(args, "-H", name+": "+strings.Join(values, ", "))
	}
	before, err := cpuTime([]int{s.proxyPID})
	if err != nil {
		return err
	}
	out, err := exec.Command(s.wrk, append(args, x.address)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	after, err := cpuTime([]int{s.proxyPID})
	if err != nil {
		return err
	}
	return x.note(string(out), after-before)
}

// note parses the output of wrk and records the results.
func (x *target) note(out string, cpu time.Duration) error {
	rate, count, p99 := wrkRate.FindStringSubmatch(out), wrkCount.FindStringSubmatch(out), wrkP99.FindStringSubmatch(out)
	if rate == nil || count == nil || p99 == nil || strings.Contains(out, "Non-2xx") || strings.Contains(out, "Socket errors") {
		return fmt.Errorf("wrk failed: %s", out)
	}
	perSecond, err1 := strconv.ParseFloat(rate[1], 64)
	requests, err2 := strconv.ParseFloat(count[1], 64)
	latency, err3 := time.ParseDuration(p99[1] + p99[2])
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			return err
		}
	}
	x.rate = append(x.rate, perSecond)
	x.p99 = append(x.p99, ms(latency))
	x.cpu = append(x.cpu, float64(cpu.Microseconds())/requests)
	return nil
}
