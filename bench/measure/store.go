package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// objectStore is versitygw with an empty bucket, behind a proxy that limits the rate of
// each connection.
type objectStore struct {
	server
	folder   string
	listener net.Listener
}

const (
	bucketName   = "images"
	bucketID     = "bench"
	bucketSecret = "bench-secret"
)

// startStore starts the object store.
func (s *settings) startStore() (*objectStore, error) {
	o := &objectStore{folder: filepath.Join(filepath.Dir(s.data), "bucket")}
	if err := os.MkdirAll(filepath.Join(o.folder, "files", bucketName), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(o.folder, "sidecar"), 0o755); err != nil {
		return nil, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", s.port+3*maxNodes)
	o.cmd = exec.Command(s.versitygw, "--quiet", "--access", bucketID, "--secret", bucketSecret, "--port", address,
		"--access-log", o.log(), "posix", "--sidecar", filepath.Join(o.folder, "sidecar"), filepath.Join(o.folder, "files"))
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := o.cmd.Start(); err != nil {
		return nil, err
	}
	o.done = make(chan struct{})
	go func() {
		_ = o.cmd.Wait()
		close(o.done)
	}()
	var err error
	if o.listener, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.port+3*maxNodes+1)); err == nil {
		go o.forward(address, s.rate*(1<<20))
		err = o.await("http://" + address)
	}
	if err != nil {
		o.end()
		return nil, err
	}
	return o, nil
}

func (o *objectStore) end() {
	if o.listener != nil {
		_ = o.listener.Close()
	}
	o.stop()
	_ = os.RemoveAll(o.folder)
}

func (o *objectStore) log() string { return filepath.Join(o.folder, "access.log") }

// lines returns the lines of a storage block.
func (o *objectStore) lines() string {
	return fmt.Sprintf("bucket %s\nendpoint http://%s\npath_style on\ncredentials %s {env.BUCKET_SECRET}", bucketName, o.listener.Addr(), bucketID)
}

// requests returns the number of requests, by operation.
func (o *objectStore) requests() (map[string]int, error) {
	log, err := os.ReadFile(o.log())
	count := map[string]int{}
	for line := range strings.Lines(string(log)) {
		for _, field := range strings.Fields(line) {
			if operation, ok := strings.CutPrefix(field, "s3_"); ok {
				count[operation]++
				break
			}
		}
	}
	return count, err
}

// forward forwards connections and limits what each sends to its client to a rate in
// bytes a second, unless that is 0.
func (o *objectStore) forward(address string, rate float64) {
	for {
		client, err := o.listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer client.Close()
			server, err := net.Dial("tcp", address)
			if err != nil {
				return
			}
			defer server.Close()
			go func() {
				_, _ = io.Copy(server, client)
				_ = server.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(&throttled{client, rate, time.Now()}, server)
		}()
	}
}

// throttled is a writer that keeps a rate in bytes a second.
type throttled struct {
	io.Writer
	rate float64
	next time.Time
}

// Write implements [io.Writer].
func (t *throttled) Write(p []byte) (int, error) {
	if t.rate <= 0 {
		return t.Writer.Write(p)
	}
	now := time.Now()
	if least := now.Add(-5 * time.Millisecond); t.next.Before(least) { // sleeps end late
		t.next = least
	}
	time.Sleep(t.next.Sub(now))
	t.next = t.next.Add(time.Duration(float64(len(p)) / t.rate * float64(time.Second)))
	return t.Writer.Write(p)
}

// pullAll pulls the manifest and all layers of an image, and waits until they are
// stored.
func (n *node) pullAll(tag string) error {
	im, err := n.image(tag)
	if err != nil {
		return err
	}
	for _, small := range im.small {
		if _, err := get(n.small(im, small), im.authorize); err != nil {
			return err
		}
	}
	if _, err = im.blob(n.proxy, n.repository).do(n.copying); err != nil {
		return err
	}
	return n.settle(im)
}
