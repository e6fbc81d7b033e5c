package main

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/bench/hub"
)

const (
	hubTags  = 50                     // that clients pull
	hubPause = 100 * time.Millisecond // of a client after each pull
	coldTags = 400                    // further ones, each pulled once
	slowness = 3 * time.Second        // of an upstream that is alive
)

// startHub serves a hub at the address of the upstream.
func (s *settings) startHub(options hub.Options) (h *hub.Hub, stop func(), err error) {
	h = hub.New(options)
	stop, err = h.Listen(strings.TrimPrefix(s.upstream, "http://"))
	return h, stop, err
}

// fill pulls all tags twice, so that they are in the cache.
func (p *hubClient) fill() error {
	for i := range 2 * hubTags {
		if got := p.pull(i % hubTags); got.failed() {
			return fmt.Errorf("filling the cache: tag %d: status %d, %v", got.tag, got.status, got.err)
		}
	}
	return nil
}

// outage measures pulls of cached tags that are not fresh while upstream is silent and
// after it has returned, and then with an upstream that is slow.
func outage(s *settings) error {
	h, stop, err := s.startHub(hub.Options{Tags: hubTags + coldTags})
	if err != nil {
		return err
	}
	defer stop()
	p := &hubClient{settings: s}
	if err := p.fill(); err != nil {
		return err
	}
	fmt.Printf("outage, %d clients, %d tags, fresh_for %s:\n", s.clients, hubTags, s.fresh)
	fmt.Printf("  healthy      %s\n", p.during(s.clients, hubTags, 10*time.Second, math.MaxInt64, hubPause, nil).summary())
	time.Sleep(s.fresh)

	h.Answer(hub.Silent, 0)
	before := h.Counts()
	first := p.pull(0)
	cold := p.cold(s.silence, 10*time.Second, hubTags)
	during := p.during(s.clients, hubTags, s.silence, math.MaxInt64, hubPause, nil)
	failed := cold()
	tried := h.Counts().Sub(before)
	fmt.Printf("  silent       %s\n", during.summary())
	fmt.Printf("               the first pull after %.1f ms; cold %s\n", ms(first.took), failed.summary())
	fmt.Printf("               upstream attempts in %s: %d requests, %d connections\n", s.silence, tried.Requests, tried.Connections)

	for n := range hubTags {
		h.Move(n)
	}
	h.Answer(hub.Healthy, 0)
	one, all, err := p.news(s, h)
	if err != nil {
		return err
	}
	fmt.Printf("  back         the first new tag after %.1f s, all %d after %.1f s\n", one.Seconds(), hubTags, all.Seconds())

	h.Answer(hub.Healthy, slowness)
	before = h.Counts()
	cold = p.cold(s.slow, 0, hubTags+coldTags/2)
	h.Move(0)
	during = p.during(s.clients, hubTags, s.slow, math.MaxInt64, hubPause, nil)
	failed = cold()
	fmt.Printf("  slow (%s)    %s\n", slowness, during.summary())
	fmt.Printf("               cold %s; %d requests upstream\n", failed.summary(), h.Counts().Sub(before).Requests)
	return nil
}

// cold pulls tags that are not cached, one after another, until the time is over. The
// result waits for the end.
func (p *hubClient) cold(limit, pause time.Duration, from int) (await func() pulls) {
	var all pulls
	var group sync.WaitGroup
	end := time.Now().Add(limit)
	group.Go(func() {
		for n := from; n < from+coldTags/2 && time.Now().Before(end); n++ {
			all = append(all, p.pull(n))
			time.Sleep(min(pause, time.Until(end)))
		}
	})
	return func() pulls {
		group.Wait()
		return all
	}
}

// news returns the time until a client gets the first of the tags that have moved, and
// until all of them have been pulled.
func (p *hubClient) news(s *settings, h *hub.Hub) (one, all time.Duration, err error) {
	began := time.Now()
	seen := make(map[int]bool)
	for range 600 {
		p.during(s.clients, hubTags, time.Minute, hubTags, hubPause, func(_ int64, last pulled) {
			if last.failed() || last.digest != h.Digest(last.tag) || seen[last.tag] {
				return
			}
			seen[last.tag] = true
			if all = time.Since(began); len(seen) == 1 {
				one = all
			}
		})
		if len(seen) == hubTags {
			return one, all, nil
		}
	}
	return 0, 0, errors.New("the proxy does not notice that upstream is back")
}
