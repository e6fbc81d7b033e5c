package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// cluster measures many clients that request a blob at once that is not cached: from
// one node alone, from three nodes with a bucket, and from three nodes of which the one
// that downloads for all is killed.
func cluster(s *settings) error {
	store, err := s.startStore()
	if err != nil {
		return err
	}
	defer store.end()
	alone, err := s.startNode(0, "", false)
	if err != nil {
		return err
	}
	one, err := s.stampede("one node", 1, []*node{alone}, false)
	stopNodes([]*node{alone})
	if err != nil {
		return fmt.Errorf("one node: %w", err)
	}
	for i, kills := range []bool{false, true} {
		name := "three nodes"
		if kills {
			name += ", one killed"
		}
		nodes, err := s.startNodes(store.lines())
		if err != nil {
			return err
		}
		got, err := s.stampede(name, i+2, nodes, kills)
		stopNodes(nodes)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Printf("  first byte   median %.2f times, worst %.2f times that of one node\n",
			float64(got.middle())/float64(one.middle()), float64(got.worst())/float64(one.worst()))
	}
	return nil
}

// stampede lets all clients request the large blob of an image at once, each from one of
// the nodes, and prints the result. If kills is set, the node that has received a
// quarter of the blob from upstream is killed, and its clients try another node.
func (s *settings) stampede(name string, number int, nodes []*node, kills bool) (*race, error) {
	asks := make([]request, len(nodes))
	for i, n := range nodes {
		im, err := n.image(strconv.Itoa(number))
		if err != nil {
			return nil, err
		}
		asks[i] = im.blob(n.proxy, n.repository)
	}
	before, err := s.counts()
	if err != nil {
		return nil, err
	}
	conns := make([]*net.TCPConn, s.clients)
	for i := range conns {
		if conns[i], err = asks[i%len(asks)].dial(); err != nil {
			return nil, err
		}
		defer conns[i].Close()
	}
	killed := make(chan error, 1)
	r := &race{firstBytes: make([]time.Duration, s.clients)}
	var cut atomic.Int64
	begin := time.Now()
	if kills {
		go func() { killed <- killOwner(nodes, asks[0].size/4) }()
	} else {
		killed <- nil
	}
	err = together(s.clients, func(i int) error {
		at := i % len(nodes)
		d, err := asks[at].on(conns[i], s.copying)
		if err != nil && kills && nodes[at].endsSoon() {
			cut.Add(1)
			_, err = asks[(at+1)%len(nodes)].do(s.copying)
		}
		r.firstBytes[i] = d.firstByte
		return err
	})
	r.took = time.Since(begin)
	if err := errors.Join(err, <-killed); err != nil {
		return nil, err
	}
	slices.Sort(r.firstBytes)
	after, err := s.counts()
	if err != nil {
		return nil, err
	}
	fmt.Printf("cluster, %s, %d clients on one cold blob of %d MB:\n", name, s.clients, asks[0].size/1e6)
	fmt.Printf("  upstream     %.4f of the size, in %d request(s)\n", float64(after.Bytes-before.Bytes)/float64(asks[0].size), after.Requests-before.Requests)
	fmt.Printf("  first byte   median %.1f ms, worst %.1f ms\n", ms(r.middle()), ms(r.worst()))
	fmt.Printf("  pulls        %d of %d ended with the whole blob, %d of them at another node after a kill\n", s.clients, s.clients, cut.Load())
	fmt.Printf("  total        %.2f s\n", r.took.Seconds())
	return r, nil
}

// endsSoon reports whether the process has ended, or does so within a second: clients
// may notice first.
func (n *node) endsSoon() bool {
	select {
	case <-n.done:
		return true
	case <-time.After(time.Second):
		return false
	}
}

// killOwner kills the node that first has received some bytes from upstream.
func killOwner(nodes []*node, bytes int64) error {
	start := make([]float64, len(nodes))
	for i, n := range nodes {
		var err error
		if start[i], err = n.fetched(); err != nil {
			return err
		}
	}
	for range 30000 {
		for i, n := range nodes {
			now, err := n.fetched()
			if err != nil {
				return err
			}
			if now-start[i] >= float64(bytes) {
				n.kill()
				return nil
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.New("no node downloads")
}

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
		own := *n.settings
		own.cache = n.cache
		return own.forget(im)
	}
	var size int64
	for round := range s.rounds {
		tag := strconv.Itoa(round + 10)
		if err := pull(with, tag, nil); err != nil {
			return err
		}
		if err := with.awaitUploads(); err != nil {
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

// warmBeside compares cached blobs of a node with a bucket and of one without.
func (s *settings) warmBeside(with, without *node) error {
	var sides []*side
	var size int64
	for _, n := range []*node{with, without} {
		if err := pull(n.settings); err != nil {
			return err
		}
		im, err := n.image("latest")
		if err != nil {
			return err
		}
		size = im.size
		ask := im.blob(n.proxy, n.repository)
		sides = append(sides, &side{name: "with", pids: []int{n.pid()}, size: im.size, do: func() error {
			_, err := ask.do(s.copying)
			return err
		}})
	}
	sides[1].name = "without"
	if err := with.awaitUploads(); err != nil {
		return err
	}
	single := *s
	single.clients = 1
	rounds := 3 * s.rounds
	for round := range rounds {
		for i := range sides {
			if err := sides[(round+i)%2].round(&single); err != nil {
				return err
			}
		}
	}
	fmt.Printf("warm with and without a bucket, one client, %d rounds of %d MB, medians:\n", rounds, size/1e6)
	for _, x := range sides {
		fmt.Printf("  %-8s %6.2f GB/s  best %.2f  %s CPU s/GB\n", x.name, median(x.rate), slices.Max(x.rate), perGB(x.cpu, x.bytes))
	}
	pairs := slices.Sorted(slices.Values(ratios(sides[0].rate, sides[1].rate)))
	fmt.Printf("  ratio    %6.3f (median of pairs %.3f, quartiles %.2f to %.2f)\n", median(sides[0].rate)/median(sides[1].rate),
		median(pairs), pairs[len(pairs)/4], pairs[(3*len(pairs)-1)/4])
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
		if err := n.awaitUploads(); err != nil {
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
