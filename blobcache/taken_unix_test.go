//go:build unix

package blobcache

import (
	"io/fs"
	"syscall"
)

// taken is how many bytes of the disk a file has, which are more than its size
// while they are yet to come.
func taken(info fs.FileInfo) int64 { return info.Sys().(*syscall.Stat_t).Blocks * 512 }
