//go:build linux || darwin || freebsd

package store_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestOpenRemovesOrphansOfKilledProcess has another process killed while it writes: what it
// leaves stays as long as it lives, and no longer.
func TestOpenRemovesOrphansOfKilledProcess(t *testing.T) {
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=TestWriterProcess", "-test.v")
	child.Env = append(os.Environ(), "BLOBCACHE_TEST_DIR="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill := func() {
		if !killed {
			killed = true
			_ = child.Process.Kill()
			_ = child.Wait()
		}
	}
	defer kill()
	lines, spool := bufio.NewScanner(out), ""
	for spool == "" && lines.Scan() {
		_, spool, _ = strings.Cut(lines.Text(), "spool: ")
	}
	s := openStore(t, dir)
	if _, err := os.Stat(spool); err != nil {
		t.Fatalf("what a living process writes: %v", err)
	}
	ours, err := s.Spool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	kill()
	openStore(t, dir)
	if _, err := os.Stat(spool); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a dead process has left: %v", err)
	}
	if _, err := os.Stat(ours.Name()); err != nil {
		t.Errorf("what this process writes: %v", err)
	}
}

// TestWriterProcess is the other process.
func TestWriterProcess(t *testing.T) {
	dir := os.Getenv("BLOBCACHE_TEST_DIR")
	if dir == "" {
		t.Skip("run by TestOpenRemovesOrphansOfKilledProcess")
	}
	spool, err := openStore(t, dir).Spool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("spool: " + spool.Name())
	time.Sleep(time.Minute) // killed long before
	_ = spool.Close()
}

// TestOpenDuringWrites has stores opened all the time while others write: none of
// what they write is lost.
func TestOpenDuringWrites(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	var writers, sweepers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		sweepers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					openStore(t, dir)
				}
			}
		})
	}
	for i := range 4 {
		writers.Go(func() {
			for n := range 100 {
				if err := s.Save(t.Context(), fmt.Sprintf("links/a/%d", i), fmt.Appendf(nil, "%d", n)); err != nil {
					t.Errorf("save: %v", err)
				}
				spool, err := s.Spool(t.Context())
				if err != nil {
					t.Errorf("spool: %v", err)
					return
				}
				if _, err := os.Stat(spool.Name()); err != nil {
					t.Errorf("a spool is gone: %v", err)
				}
				_ = os.Remove(spool.Name())
				_ = spool.Close()
			}
		})
	}
	writers.Wait()
	close(done)
	sweepers.Wait()
	if entries, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
