//go:build !unix

package blobcache

import "io/fs"

// taken returns the size of the file; these systems do not tell the space that it
// takes on the disk.
func taken(info fs.FileInfo) int64 { return info.Size() }
