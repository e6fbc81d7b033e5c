package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
)

const (
	starts     = 5               // measurements of the start
	latencies  = 10000           // requests for the latency
	quiet      = 2 * time.Second // without work, after which a process is at rest
	sweepLimit = 15 * time.Minute
)

// scale measures a cache of many blobs that populate has created: the start, the
// latency of a small cached blob, and a sweep that has to evict.
func scale(s *settings) error {
	fmt.Printf("scale, %d blobs:\n", s.count)
	if err := s.stock(); err != nil {
		return err
	}
	if err := s.scaleStart(); err != nil {
		return err
	}
	if err := s.scaleLatency(); err != nil {
		return err
	}
	return s.scaleSweep()
}

// stock pulls the small blobs through the proxy, so that they are cached.
func (s *settings) stock() error {
	caddy, im, err := s.launch(s.unbounded)
	if err != nil {
		return err
	}
	defer caddy.stop()
	for _, small := range im.small {
		if _, err := get(s.small(im, small), im.authorize); err != nil {
			return err
		}
	}
	return nil
}

// small returns the URL of a small blob at the proxy.
func (s *settings) small(im *image, blob layer) string {
	r := im.blob(s.proxy, s.repository)
	return r.base + r.path[:len(r.path)-len(im.digest)] + blob.Digest
}

// launch starts Caddy, waits until it responds, and returns it with an image.
func (s *settings) launch(caddyfile string) (*server, *image, error) {
	caddy, err := s.exec(caddyfile)
	if err != nil {
		return nil, nil, err
	}
	if err := caddy.await(s.proxy + "/v2/"); err != nil {
		caddy.stop()
		return nil, nil, err
	}
	im, err := s.image("latest")
	if err != nil {
		caddy.stop()
	}
	return caddy, im, err
}

// scaleStart measures the time from exec to the first response and to the first
// cached blob. The token is from an earlier process, and still valid.
func (s *settings) scaleStart() error {
	caddy, im, err := s.launch(s.unbounded)
	if err != nil {
		return err
	}
	caddy.stop()
	var took, page []float64
	for range starts {
		begin := time.Now()
		if caddy, err = s.exec(s.unbounded); err != nil {
			return err
		}
		if err := caddy.await(s.proxy + "/v2/"); err != nil {
			caddy.stop()
			return err
		}
		page = append(page, ms(time.Since(begin)))
		_, err := get(s.small(im, im.small[0]), im.authorize)
		took = append(took, ms(time.Since(begin)))
		caddy.stop()
		if err != nil {
			return err
		}
	}
	fmt.Printf("  start        %.0f ms from exec to the first response, %.0f ms to the first blob; at worst %.0f ms (%d starts)\n",
		median(page), median(took), slices.Max(took), starts)
	return nil
}

// scaleLatency measures the latency of small blobs that are requested one after the
// other, when the process is at rest after its start.
func (s *settings) scaleLatency() error {
	caddy, im, err := s.launch(s.unbounded)
	if err != nil {
		return err
	}
	defer caddy.stop()
	cpu, rests, err := caddy.settle(time.Minute)
	if err != nil {
		return err
	}
	anonymous, err := memory(caddy.pid(), "RssAnon")
	if err != nil {
		return err
	}
	requests := make([]*http.Request, len(im.small))
	for i, small := range im.small {
		if requests[i], err = http.NewRequest(http.MethodGet, s.small(im, small), nil); err != nil {
			return err
		}
		im.authorize(requests[i])
	}
	times := make([]float64, 0, latencies)
	for i := range latencies {
		begin := time.Now()
		resp, err := http.DefaultClient.Do(requests[i%len(requests)])
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %w", resp.Status, err)
		}
		times = append(times, ms(time.Since(begin)))
	}
	slices.Sort(times)
	state := "at rest"
	if !rests {
		state = "still busy after a minute"
	}
	fmt.Printf("  idle         %.1f MiB anonymous, %s, after %.2f s of CPU since the start\n", mib(anonymous), state, cpu.Seconds())
	fmt.Printf("  latency      p50 %.3f ms, p99 %.3f ms of a warm blob of some bytes (%d requests, one after the other)\n",
		times[len(times)/2], times[len(times)*99/100], len(times))
	return nil
}

// scaleSweep starts Caddy with a cache of twice the permitted size, and watches the
// deletions.
func (s *settings) scaleSweep() error {
	deleted, err := watchDeletions(s.cache)
	if err != nil {
		return err
	}
	defer deleted.close()
	caddy, err := s.exec(s.bounded)
	if err != nil {
		return err
	}
	defer caddy.stop()
	stop := watchAnonymous(caddy.pid())
	begin := time.Now()
	least := s.count / 2
	for {
		// A sweep may search for candidates more than once.
		pause := max(quiet, 2*deleted.first.Sub(begin))
		if deleted.count >= least && time.Since(deleted.last.at) > pause {
			break
		}
		if caddy.ended() {
			return errors.New("caddy has exited")
		}
		if time.Since(begin) > sweepLimit {
			return fmt.Errorf("after %s: %d blobs deleted, want at least %d", sweepLimit, deleted.count, least)
		}
		if err := deleted.read(caddy.pid(), 100*time.Millisecond); err != nil {
			return err
		}
	}
	peak := stop()
	last := deleted.last
	took := last.at.Sub(begin)
	fmt.Printf("  sweep        %.2f s from exec to the last of %d deletions, the first after %.2f s; %.2f s of CPU, %.2f of a core\n",
		took.Seconds(), deleted.count, deleted.first.Sub(begin).Seconds(), last.cpu.Seconds(), last.cpu.Seconds()/took.Seconds())
	fmt.Printf("  memory       at most %.1f MiB anonymous during the sweep\n", mib(peak))
	return nil
}
