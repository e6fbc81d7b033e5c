package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// puller is one of the compared ways to pull a blob.
type puller struct {
	name string
	by   func(*image) request
	done func(*image) error // cleans up after a pull

	took []float64 // seconds by round
}

// direct compares one client that pulls a blob through the proxy, through nginx's
// proxy_cache and directly from upstream. Each round has its own blob, which is in
// neither cache.
func direct(s *settings) error {
	pullers := []*puller{s.straight(), s.throughProxy(), {
		name: "nginx",
		by:   func(im *image) request { r := im.blob(s.nginx, s.upstreamFor); r.token = ""; return r },
		done: func(*image) error { return empty(s.nginxCache) },
	}}
	size, err := s.pullInTurns(pullers)
	if err != nil {
		return err
	}
	fmt.Printf("cold and direct, one client on a blob of %d MB, a new one in each of %d rounds, medians:\n", size/1e6, s.rounds)
	printTurns(pullers)
	own, nginx := pullers[1], pullers[2]
	fmt.Printf("  the proxy takes %.2f times nginx's time (median of pairs %.2f)\n",
		median(own.took)/median(nginx.took), median(ratios(own.took, nginx.took)))
	return nil
}

// parallel compares the proxy with a direct pull from an upstream that limits the
// rate of each connection, and the bytes that upstream sends with the blob's size.
func parallel(s *settings) error {
	pullers := []*puller{s.straight(), s.throughProxy()}
	own := pullers[1]
	before, err := s.counts()
	if err != nil {
		return err
	}
	size, err := s.pullInTurns(pullers)
	if err != nil {
		return err
	}
	after, err := s.counts()
	if err != nil {
		return err
	}
	// The counts include the direct pulls, each one request for the whole blob.
	rounds := float64(s.rounds)
	sent := float64(after.Bytes-before.Bytes)/float64(size)/rounds - 1
	requests := float64(after.Requests-before.Requests)/rounds - 1
	fmt.Printf("parallel, one client on a cold blob of %d MB, %d rounds, upstream limits each connection, medians:\n", size/1e6, s.rounds)
	printTurns(pullers)
	fmt.Printf("  the proxy is %.2f times as fast as direct\n", median(pullers[0].took)/median(own.took))
	fmt.Printf("  upstream     %.4f of the size, in %.1f request(s) a blob\n", sent, requests)
	return nil
}

// straight pulls directly from upstream.
func (s *settings) straight() *puller {
	return &puller{
		name: "direct",
		by:   func(im *image) request { return im.blob(s.upstream, s.upstreamFor) },
		done: func(*image) error { return nil },
	}
}

// throughProxy pulls through the proxy and deletes the blob from its cache.
func (s *settings) throughProxy() *puller {
	return &puller{
		name: "proxy",
		by:   func(im *image) request { return im.blob(s.proxy, s.repository) },
		done: s.forget,
	}
}

// forget waits until the cache has stored the blob and deletes it, so that work
// after the last byte does not disturb the next round.
func (s *settings) forget(im *image) error {
	name := filepath.Join(s.cache, "blobs", im.file("").path)
	for range 600 {
		err := os.Remove(name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("the cache has not stored %s", im.digest)
}

// pullInTurns lets each side pull the blob of each round, in a changing order, and
// returns the blob's size.
func (s *settings) pullInTurns(pullers []*puller) (size int64, err error) {
	for round := range s.rounds {
		im, err := s.image(strconv.Itoa(round + 1))
		if err != nil {
			return 0, err
		}
		size = im.size
		for i := range pullers {
			x := pullers[turn(round, i, len(pullers))]
			got, err := x.by(im).do(s.copying)
			if err == nil && got.hit {
				err = errors.New("the blob is already cached")
			}
			if err == nil {
				err = x.done(im)
			}
			if err != nil {
				return 0, fmt.Errorf("%s: %w", x.name, err)
			}
			x.took = append(x.took, got.took.Seconds())
		}
	}
	return size, nil
}

// turn returns the index of the side that is the i-th of a round. In six rounds of
// three sides, each side is first twice and follows each other side as often as it
// precedes it, because a side may profit from memory that the previous one freed.
func turn(round, i, sides int) int {
	if round/sides%2 == 1 {
		i = sides - i
	}
	return (round + i) % sides
}

// printTurns prints the sides and compares them with the first one.
func printTurns(pullers []*puller) {
	base := pullers[0]
	for _, x := range pullers {
		fmt.Printf("  %-7s %6.2f s  best %.2f, worst %.2f", x.name, median(x.took), slices.Min(x.took), slices.Max(x.took))
		if x != base {
			fmt.Printf("  %.2f times %s (median of pairs %.2f)", median(x.took)/median(base.took), base.name, median(ratios(x.took, base.took)))
		}
		fmt.Println()
	}
}

// empty deletes the files in a folder that a server is using, but not its
// subfolders. If a file disappears, nginx has renamed it after the transfer, and the
// folder is read again.
func empty(folder string) error {
	for try := 1; ; try++ {
		err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			return os.Remove(path)
		})
		if try == 10 || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}
