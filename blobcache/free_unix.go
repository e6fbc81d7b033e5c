//go:build linux || darwin || freebsd

package blobcache

import "golang.org/x/sys/unix"

// freeSpace is what a process without privileges may still write, and the size
// of the disk, in bytes.
func freeSpace(path string) (free, total int64, err error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return 0, 0, err
	}
	return int64(stat.Bavail) * int64(stat.Bsize), int64(stat.Blocks) * int64(stat.Bsize), nil
}
