//go:build unix

package blobcache_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// replace puts another opening in the place of a spool, under the same
// descriptor: what the disk does to a spool that was fine when it was created.
func replace(t testing.TB, spool *os.File, name string, flag int) {
	t.Helper()
	other, err := os.OpenFile(name, flag, 0)
	if err != nil {
		t.Skipf("no such fault on this machine: %v", err)
	}
	defer other.Close()
	if err := swap(spool, other); err != nil {
		t.Fatal(err)
	}
}

func swap(spool, other *os.File) error {
	conn, err := spool.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := conn.Control(func(fd uintptr) { err = unix.Dup2(int(other.Fd()), int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// full makes all writes fail for want of space.
func full(t testing.TB, spool *os.File) { replace(t, spool, "/dev/full", os.O_RDWR) }

// readOnly makes writes fail from now on.
func readOnly(t testing.TB, spool *os.File) { replace(t, spool, spool.Name(), os.O_RDONLY) }

// unreadable makes reads fail from now on.
func unreadable(t testing.TB, spool *os.File) { replace(t, spool, spool.Name(), os.O_WRONLY) }
