//go:build !linux && !darwin && !freebsd

package store

import "os"

// freeSpace is not supported on this platform.
func freeSpace(string) (free, total int64, err error) { return 0, 0, nil }

// lockFile is not supported on this platform: orphans are recognized by their
// age.
func lockFile(*os.File) lockState { return lockUnknown }

// IsFull is not supported on this platform. It returns false.
func IsFull(error) bool { return false }
