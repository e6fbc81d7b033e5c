//go:build !linux

package blobcache

import (
	"errors"
	"os"
)

// allocateBlocks is not supported on this platform.
func allocateBlocks(_ *os.File, _, _ int64) error { return errors.ErrUnsupported }
