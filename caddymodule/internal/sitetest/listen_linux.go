package sitetest

import (
	"net/netip"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// listeningTwice reports whether several sockets of this process listen at one address.
func listeningTwice(t testing.TB) bool {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[netip.AddrPort]bool)
	for _, file := range files {
		fd, err := strconv.Atoi(file.Name())
		if err != nil {
			continue
		}
		if accepts, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || accepts == 0 {
			continue
		}
		address, err := unix.Getsockname(fd)
		inet, ok := address.(*unix.SockaddrInet4)
		if err != nil || !ok {
			continue
		}
		at := netip.AddrPortFrom(netip.AddrFrom4(inet.Addr), uint16(inet.Port))
		if seen[at] {
			return true
		}
		seen[at] = true
	}
	return false
}
