//go:build unix

package blobcache_test

import "os"

func init() {
	fullSpool = func(spool *os.File) { spoil(spool, "/dev/full", os.O_RDWR) }
	spoolFaults = []func(*os.File){
		func(spool *os.File) { spoil(spool, spool.Name(), os.O_RDONLY) },
		func(spool *os.File) { spoil(spool, spool.Name(), os.O_WRONLY) },
	}
}

// spoil is like replace, but ignores errors, since the spool may have been closed or stored in the
// meantime.
func spoil(spool *os.File, name string, flag int) {
	other, err := os.OpenFile(name, flag, 0)
	if err != nil {
		return
	}
	defer other.Close()
	_ = swap(spool, other)
}
