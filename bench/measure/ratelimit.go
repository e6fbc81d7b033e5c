package main

import (
	"fmt"
	"math"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/bench/hub"
)

const (
	hubLimit = 100 // pulls in a window
	hubPulls = 10_000
	hubMoves = 20
)

// ratelimit measures pulls of more images than the limit of the upstream allows, while
// some tags move: with an empty cache, or with one that has all images, and then also
// while upstream refuses everything.
func ratelimit(s *settings) error {
	options := hub.Options{Tags: hubTags, Limit: hubLimit, Window: 6 * time.Hour}
	h, stop, err := s.startHub(options)
	if err != nil {
		return err
	}
	defer stop()
	p := &hubClient{settings: s}
	what := "empty cache"
	if !s.empty {
		what = "full cache"
		if err := p.fill(); err != nil {
			return err
		}
		h.Renew()
	}
	began, before := time.Now(), h.Counts()
	moved := 0
	got := p.during(s.clients, hubTags, math.MaxInt64, hubPulls, hubPause/10, func(n int64, _ pulled) {
		for ; moved < hubMoves && n >= int64(moved+1)*hubPulls/(hubMoves+5); moved++ {
			h.Move(moved)
		}
	})
	used := h.Counts().Sub(before)
	fmt.Printf("ratelimit, %s, a limit of %d pulls, %d tags with an index and a manifest, of which %d move, %d clients, fresh_for %s:\n",
		what, hubLimit, hubTags, hubMoves, s.clients, s.fresh)
	fmt.Printf("  %s in %.0f s\n", got.summary(), time.Since(began).Seconds())
	fmt.Printf("  seen by clients: %d times 429, %d of %d moved tags\n", got.limited(), got.seen(h), hubMoves)
	need := 2 * hubMoves
	if s.empty {
		need += 2 * hubTags
	}
	fmt.Printf("  upstream: %d counted pulls (the images have %d manifests), %d checks by HEAD, %d requests refused\n",
		used.Pulls, need, used.Checks, used.Limited)
	if !s.empty {
		return s.abuse(p, h)
	}
	return nil
}

// abuse measures pulls while upstream refuses everything with a plain text 429.
func (s *settings) abuse(p *hubClient, h *hub.Hub) error {
	h.Renew()
	for n := range hubTags {
		h.Move(n)
	}
	h.Answer(hub.Abusive, 0)
	before := h.Counts()
	got := p.during(s.clients, hubTags, s.abusive, math.MaxInt64, hubPause, nil)
	tried := h.Counts().Sub(before)
	fmt.Printf("  every request refused for %s: %s\n", s.abusive, got.summary())
	fmt.Printf("  seen by clients: %d times 429; upstream: %d requests\n", got.limited(), tried.Requests)
	h.Answer(hub.Healthy, 0)
	one, all, err := p.news(s, h)
	if err != nil {
		fmt.Printf("  afterwards: %v\n", err)
		return nil
	}
	fmt.Printf("  afterwards: the first new tag after %.1f s, all %d after %.1f s\n", one.Seconds(), hubTags, all.Seconds())
	return nil
}

// limited returns how many pulls have ended with 429.
func (all pulls) limited() (n int) {
	for _, p := range all {
		if p.status == 429 {
			n++
		}
	}
	return n
}

// seen returns how many of the tags that have moved were pulled with their new content.
func (all pulls) seen(h *hub.Hub) int {
	tags := make(map[int]bool)
	for _, p := range all {
		if p.tag < hubMoves && !p.failed() && p.digest == h.Digest(p.tag) {
			tags[p.tag] = true
		}
	}
	return len(tags)
}
