//go:build !linux

package sitetest

import "testing"

// listeningTwice returns false: the sockets that listen cannot be observed here.
func listeningTwice(testing.TB) bool { return false }
