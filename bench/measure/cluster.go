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

// fewClients is one client for each node: so few that nothing waits for the cores.
const fewClients = maxNodes

// cluster measures clients that request an uncached blob at the same time: few and many
// from one node and from three nodes with a bucket, and many from three nodes of which the
// one that downloads for all is killed. With many clients, the first byte is also delayed
// because the nodes compete for the cores.
func cluster(s *settings) error {
	store, err := s.startStore()
	if err != nil {
		return err
	}
	defer store.end()
	var one *race
	for i, row := range []struct {
		name    string
		clients int
		single  bool
		kills   bool
	}{
		{"one node", fewClients, true, false},
		{"three nodes", fewClients, false, false},
		{"one node", s.clients, true, false},
		{"three nodes", s.clients, false, false},
		{"three nodes, one killed", s.clients, false, true},
	} {
		nodes, err := s.startNodes(store.lines(), row.single)
		if err != nil {
			return err
		}
		own := *s
		own.clients = row.clients
		got, err := own.stampede(row.name, i+1, nodes, row.kills)
		stopNodes(nodes)
		if err != nil {
			return fmt.Errorf("%s: %w", row.name, err)
		}
		if row.single {
			one = got
			continue
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
