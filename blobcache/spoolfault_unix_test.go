//go:build unix

package blobcache_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// replace opens the file name with flag and puts it in the place of the spool, under the same
// descriptor. This simulates a disk that fails after the spool was created.
func replace(t testing.TB, spool *os.File, name string, flag int) {
	t.Helper()
	other, err := os.OpenFile(name, flag, 0)
	if err != nil {
		t.Skipf("the fault cannot be simulated on this machine: %v", err)
	}
	defer other.Close()
	if err := swap(spool, other); err != nil {
		t.Fatal(err)
	}
}

// swap makes the descriptor of spool refer to the open file other.
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

// full makes all writes to the spool fail from now on because the disk is full.
func full(t testing.TB, spool *os.File) { replace(t, spool, "/dev/full", os.O_RDWR) }

// readOnly makes all writes to the spool fail from now on.
func readOnly(t testing.TB, spool *os.File) { replace(t, spool, spool.Name(), os.O_RDONLY) }

// unreadable makes all reads of the spool fail from now on.
func unreadable(t testing.TB, spool *os.File) { replace(t, spool, spool.Name(), os.O_WRONLY) }
