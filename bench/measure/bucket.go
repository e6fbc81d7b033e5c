package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// bucket compares pulls of blobs that only the bucket has with pulls from an upstream at
// the same rate, then cached blobs with a bucket and without one, and counts the
// requests to the bucket.
func bucket(s *settings) error {
	store, err := s.startStore()
	if err != nil {
		return err
	}
	defer store.end()
	with, err := s.startNode(0, store.lines(), false)
	if err != nil {
		return err
	}
	defer with.stop()
	without, err := s.startNode(1, "", false)
	if err != nil {
		return err
	}
	defer without.stop()
	if err := s.onlyInBucket(with, without); err != nil {
		return err
	}
	if err := s.warmBeside(with, without); err != nil {
		return err
	}
	return s.countRequests(store, with)
}

// onlyInBucket pulls a new blob in each round, once from upstream through the node
// without a bucket, and once from the bucket.
func (s *settings) onlyInBucket(with, without *node) error {
	up, from := &puller{name: "upstream"}, &puller{name: "bucket"}
	pull := func(n *node, tag string, p *puller) error {
		im, err := n.image(tag)
		if err != nil {
			return err
		}
		got, err := im.blob(n.proxy, n.repository).do(s.copying)
		if err != nil {
			return err
		}
		if p != nil {
			p.took = append(p.took, got.took.Seconds())
		}
		if err := n.settle(im); err != nil {
			return err
		}
		return os.Remove(n.stored(im))
	}
	var size int64
	for round := range s.rounds {
		tag := strconv.Itoa(round + 10)
		if err := pull(with, tag, nil); err != nil {
			return err
		}
		before, err := s.counts()
		if err != nil {
			return err
		}
		turns := []func() error{func() error { return pull(without, tag, up) }, func() error { return pull(with, tag, from) }}
		for i := range turns {
			if err := turns[(round+i)%2](); err != nil {
				return err
			}
		}
		after, err := s.counts()
		if err != nil {
			return err
		}
		im, err := with.image(tag)
		if err != nil {
			return err
		}
		if size = im.size; after.Bytes-before.Bytes != size {
			return fmt.Errorf("upstream sent %d bytes for one pull of %d", after.Bytes-before.Bytes, size)
		}
	}
	fmt.Printf("bucket, one client on a blob of %d MB that only the bucket has, %d rounds, %.0f MiB/s a connection, medians:\n", size/1e6, s.rounds, s.rate)
	printTurns([]*puller{up, from})
	return nil
}

// warmBeside compares how fast a node with a bucket and one without send cached blobs. It
// also compares two nodes without a bucket, which shows the noise of the comparison.
func (s *settings) warmBeside(with, without *node) error {
	again, err := s.startNode(2, "", false)
	if err != nil {
		return err
	}
	defer stopNodes([]*node{again})
	var sides []*side
	var size int64
	for i, n := range []*node{with, without, again} {
		if err := pull(n.settings); err != nil {
			return err
		}
		im, err := n.image("latest")
		if err != nil {
			return err
		}
		size = im.size
		ask := im.blob(n.proxy, n.repository)
		sides = append(sides, &side{name: []string{"with", "without", "again"}[i], pids: []int{n.pid()}, size: im.size, do: func() error {
			_, err := ask.do(s.copying)
			return err
		}})
	}
	if err := with.awaitUploads(); err != nil {
		return err
	}
	single := *s
	single.clients = 1
	rounds := 3 * s.rounds
	for round := range rounds {
		for i := range sides {
			if err := sides[(round+i)%len(sides)].round(&single); err != nil {
				return err
			}
		}
	}
	fmt.Printf("warm with and without a bucket, one client, %d rounds of %d MB, medians:\n", rounds, size/1e6)
	for _, x := range sides {
		fmt.Printf("  %-8s %6.2f GB/s  best %.2f  %s CPU s/GB\n", x.name, median(x.rate), slices.Max(x.rate), perGB(x.cpu, x.bytes))
	}
	fmt.Printf("  ratio    %s\n  noise    %s, of two nodes without\n", sides[0].against(sides[1]), sides[2].against(sides[1]))
	return nil
}

// countRequests counts the requests to the bucket for an image with eight layers.
func (s *settings) countRequests(store *objectStore, with *node) error {
	const tag = "9"
	fmt.Println("requests to the bucket for an image of a manifest and eight layers:")
	count := func(name string, n *node) error {
		before, err := store.requests()
		if err != nil {
			return err
		}
		if err := n.pullAll(tag); err != nil {
			return err
		}
		time.Sleep(time.Second) // the log is written late
		after, err := store.requests()
		if err != nil {
			return err
		}
		total := 0
		for operation := range after {
			if after[operation] -= before[operation]; after[operation] == 0 {
				delete(after, operation)
			}
			total += after[operation]
		}
		fmt.Printf("  %-12s %d %v\n", name, total, after)
		return nil
	}
	if err := count("cold", with); err != nil {
		return err
	}
	if err := count("warm", with); err != nil {
		return err
	}
	other, err := s.startNode(2, store.lines(), false)
	if err != nil {
		return err
	}
	defer other.stop()
	return count("in bucket", other)
}
