//go:build !linux && !darwin && !freebsd

package store

import "os"

// freeSpace is not known here.
func freeSpace(string) (free, total int64, err error) { return 0, 0, nil }

// lockFile knows no locks here: orphans are told by their age.
func lockFile(*os.File) lockState { return lockUnknown }

// IsFull is not known here.
func IsFull(error) bool { return false }
