//go:build !linux

package fill

import (
	"errors"
	"os"
)

// allocateBlocks is not supported on this platform.
func allocateBlocks(_ *os.File, _, _ int64) error { return errors.ErrUnsupported }
