//go:build linux || darwin

package porttest

import (
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// reserve binds a socket that does not listen.
func reserve() (address string, release func(), err error) {
	syscall.ForkLock.RLock()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return "", nil, os.NewSyscallError("socket", err)
	}
	release = func() { _ = unix.Close(fd) }
	port, err := bind(fd)
	if err != nil {
		release()
		return "", nil, err
	}
	return netip.AddrPortFrom(loopback, port).String(), release, nil
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// bind binds a socket to a free port of the loopback interface.
func bind(fd int) (port uint16, err error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return 0, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback.As4()}); err != nil {
		return 0, os.NewSyscallError("bind", err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return 0, os.NewSyscallError("getsockname", err)
	}
	return uint16(bound.(*unix.SockaddrInet4).Port), nil
}

// share lets a server listen at a port that is reserved.
func share(_, _ string, conn syscall.RawConn) error {
	var err error
	if cerr := conn.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("setsockopt", err)
}
