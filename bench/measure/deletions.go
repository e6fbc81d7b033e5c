package main

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// deletions counts the blobs that are deleted from a cache, by inotify, which does
// not slow down the process that deletes them.
type deletions struct {
	file  *os.File
	count int
	first time.Time
	last  deletion
}

// deletion records the state when a blob was deleted.
type deletion struct {
	at  time.Time
	cpu time.Duration // of the process
}

// watchDeletions starts to watch the folders of a cache.
func watchDeletions(cache string) (*deletions, error) {
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	// The runtime polls a non-blocking descriptor and supports deadlines for it.
	d := &deletions{file: os.NewFile(uintptr(fd), "inotify")}
	folders, err := filepath.Glob(filepath.Join(cache, "blobs", "*", "*"))
	for _, folder := range folders {
		if err == nil {
			_, err = syscall.InotifyAddWatch(fd, folder, syscall.IN_DELETE)
		}
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *deletions) close() { _ = d.file.Close() }

// read counts the deletions since the last call, and waits for one until the
// patience is over. It records the CPU time of the process that deletes.
func (d *deletions) read(pid int, patience time.Duration) error {
	if err := d.file.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	n, err := d.file.Read(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err != nil {
		return err
	}
	now := time.Now()
	cpu, err := cpuTime([]int{pid})
	if err != nil {
		return err
	}
	for event := buf[:n]; len(event) >= syscall.SizeofInotifyEvent; {
		if mask := binary.NativeEndian.Uint32(event[4:]); mask&syscall.IN_Q_OVERFLOW != 0 {
			return errors.New("inotify lost events: blobs are deleted faster than they are counted")
		}
		if d.count++; d.count == 1 {
			d.first = now
		}
		event = event[syscall.SizeofInotifyEvent+binary.NativeEndian.Uint32(event[12:]):]
	}
	d.last = deletion{now, cpu}
	return nil
}
