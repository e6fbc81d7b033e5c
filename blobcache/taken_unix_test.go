//go:build unix

package blobcache

import (
	"io/fs"
	"syscall"
)

// taken returns the number of bytes of the disk that a file occupies. They exceed its size while
// space is allocated for bytes that are still to arrive.
func taken(info fs.FileInfo) int64 { return info.Sys().(*syscall.Stat_t).Blocks * 512 }
