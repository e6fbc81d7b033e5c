package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// node is a Caddy of a cluster.
type node struct {
	*server
	*settings // with the node as the proxy

	name, cache, admin string
}

const nodeConfig = `{
	admin %[1]s
	auto_https off
	storage file_system %[2]s/keys
}
(proxy) {
	dependency_proxy {
		%[3]s
		user %[4]s %[5]s
		group acme {
			members %[4]s
		}
		upstream registry.example {
			endpoint %[6]s
			allow_private on
			fresh_for 24h
		}
		%[7]s
	}
}
http://127.0.0.1:%[8]d {
	bind 127.0.0.1
	import proxy
}
https://localhost:%[9]d {
	bind 127.0.0.1
	tls %[2]s/tls.crt %[2]s/tls.key
	import proxy
}
`

const peersConfig = `peers {
	to %s
	transport http {
		tls_server_name localhost
		tls_trust_pool file %s/tls.crt
	}
}`

// maxNodes is the number of nodes that have ports, three each.
const maxNodes = 3

func (s *settings) nodePort(i, n int) int { return s.port + 3*i + n }

// startNode starts node i with an empty cache. Storage has the lines of storage s3, or
// is empty for a cache on the disk alone.
func (s *settings) startNode(i int, storage string, peers bool) (*node, error) {
	own := *s
	own.proxy = fmt.Sprintf("http://127.0.0.1:%d", s.nodePort(i, 0))
	n := &node{settings: &own, name: fmt.Sprintf("node %d", i+1)}
	n.cache = filepath.Join(filepath.Dir(s.data), fmt.Sprintf("node%d", i+1))
	n.admin = fmt.Sprintf("127.0.0.1:%d", s.nodePort(i, 2))
	hash, err := exec.Command(s.caddy, "hash-password", "--plaintext", s.password, "--bcrypt-cost", "4").Output()
	if err != nil {
		return nil, fmt.Errorf("hashing a password: %w", err)
	}
	block := "storage filesystem " + n.cache
	if storage != "" {
		block = "storage s3 {\n" + storage + "\nlocal " + n.cache + "\n}"
	}
	var others string
	if peers {
		var to []string
		for i := range maxNodes {
			to = append(to, fmt.Sprintf("127.0.0.1:%d", s.nodePort(i, 1)))
		}
		others = fmt.Sprintf(peersConfig, strings.Join(to, " "), s.data)
	}
	config := fmt.Sprintf(nodeConfig, n.admin, s.data, block, s.user, strings.TrimSpace(string(hash)), s.upstream, others,
		s.nodePort(i, 0), s.nodePort(i, 1))
	file := n.cache + ".caddyfile"
	if err := errors.Join(os.RemoveAll(n.cache), os.WriteFile(file, []byte(config), 0o600)); err != nil {
		return nil, err
	}
	if n.server, err = s.exec(file); err != nil {
		return nil, err
	}
	if err := n.await(n.proxy + "/v2/"); err != nil {
		n.stop()
		return nil, err
	}
	return n, nil
}

// startNodes starts all nodes and waits until they know each other. If single is set, it
// starts one node, whose cache is on its disk only.
func (s *settings) startNodes(storage string, single bool) (nodes []*node, err error) {
	if single {
		n, err := s.startNode(0, "", false)
		return []*node{n}, err
	}
	for i := range maxNodes {
		n, err := s.startNode(i, storage, true)
		if err != nil {
			stopNodes(nodes)
			return nil, err
		}
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		if err := n.awaitOthers(); err != nil {
			stopNodes(nodes)
			return nil, err
		}
	}
	return nodes, nil
}

// awaitOthers waits until the node knows the others, which takes up to ten seconds.
func (n *node) awaitOthers() error {
	var status struct {
		Sites []struct {
			Peers struct{ Nodes []struct{ State string } }
		}
	}
	for range 600 {
		if err := n.status(&status); err != nil {
			return err
		}
		up := 0
		for _, site := range status.Sites {
			for _, other := range site.Peers.Nodes {
				if other.State == "up" {
					up++
				}
			}
		}
		if up == (maxNodes-1)*len(status.Sites) {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("the nodes do not find each other")
}

// status asks the admin API for the state of the node.
func (n *node) status(into any) error {
	body, err := get("http://"+n.admin+"/dependency_proxy/status", func(*http.Request) {})
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	return err
}

// stopNodes stops nodes and removes their caches.
func stopNodes(nodes []*node) {
	for _, n := range nodes {
		n.stop()
		_ = os.RemoveAll(n.cache)
	}
}

// kill kills the process.
func (x *server) kill() {
	_ = x.cmd.Process.Kill()
	<-x.done
}

var upstreamBytes = regexp.MustCompile(`(?m)^caddy_dependency_proxy_upstream_bytes_total\{[^}]*\} (\S+)$`)

// fetched returns the number of bytes that the node has received from upstream.
func (n *node) fetched() (float64, error) {
	text, err := get("http://"+n.admin+"/metrics", func(*http.Request) {})
	if err != nil {
		return 0, err
	}
	found := upstreamBytes.FindSubmatch(text)
	if found == nil {
		return 0, nil
	}
	return strconv.ParseFloat(string(found[1]), 64)
}

// stored returns the file of the large blob in the cache of the node.
func (n *node) stored(im *image) string { return filepath.Join(n.cache, "blobs", im.file("").path) }

// settle waits until the node has stored the large blob and uploaded all that it has.
func (n *node) settle(im *image) error {
	for range 600 {
		if _, err := os.Stat(n.stored(im)); err == nil {
			return n.awaitUploads()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("%s has not stored %s", n.name, im.digest)
}

// awaitUploads waits until the node has nothing left to upload, as one without a bucket.
func (n *node) awaitUploads() error {
	var status struct {
		Caches []struct {
			Remote struct {
				Blobs   int `json:"blobs_to_upload"`
				Records int `json:"records_to_upload"`
			}
		}
	}
	for range 6000 {
		if err := n.status(&status); err != nil {
			return err
		}
		if len(status.Caches) == 1 && status.Caches[0].Remote.Blobs+status.Caches[0].Remote.Records == 0 {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("the uploads do not end")
}
