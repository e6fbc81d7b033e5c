package caddymodule

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// listening returns the number of sockets of this process that listen on a port.
func listening(port uint64) (n int) {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	for _, file := range files {
		fd, err := strconv.Atoi(file.Name())
		if err != nil {
			continue
		}
		if accepts, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || accepts == 0 {
			continue
		}
		address, err := unix.Getsockname(fd)
		if ip, ok := address.(*unix.SockaddrInet4); err == nil && ok && uint64(ip.Port) == port {
			n++
		}
	}
	return n
}
