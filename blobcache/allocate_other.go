//go:build !linux

package blobcache

import (
	"errors"
	"os"
)

// allocateBlocks is not known here.
func allocateBlocks(*os.File, int64) error { return errors.ErrUnsupported }
