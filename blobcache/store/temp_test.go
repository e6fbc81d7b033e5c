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

// TestOpenRemovesOrphansOfKilledProcess checks that OpenFileStore keeps the temporary files of
// another process while that runs, and removes them after it was killed.
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
		t.Fatalf("the spool of a running process: got %v, want it kept", err)
	}
	ours, err := s.Spool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	kill()
	openStore(t, dir)
	if _, err := os.Stat(spool); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the spool of a killed process: got %v, want it removed", err)
	}
	if _, err := os.Stat(ours.Name()); err != nil {
		t.Errorf("the spool of this process: got %v, want it kept", err)
	}
}

// TestWriterProcess is the process that TestOpenRemovesOrphansOfKilledProcess kills.
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

// TestOpenDuringWrites checks that stores that are opened while others write to the same
// directory remove none of their temporary files.
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
					t.Errorf("a spool that is open: got %v, want it kept", err)
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
		t.Errorf("temporary files: got %v and the error %v, want none", entries, err)
	}
}
