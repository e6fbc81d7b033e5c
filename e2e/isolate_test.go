//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Names and addresses of the tests. All are on the loopback device of the network
// namespace. The proxy has an address outside of 127.0.0.0/8, because Docker does
// not verify certificates inside it.
const (
	proxyName = "registry.example.com"
	proxyAddr = "192.0.2.10"

	hubName  = "registry-1.hub.example"
	hubAddr  = "192.0.2.21"
	authName = "auth.hub.example"
	authAddr = "192.0.2.22"
	cdnName  = "cdn.blobs.example"
	cdnAddr  = "192.0.2.23"

	// The host of a bucket to which clients are redirected.
	bucketHost = "s3.objects.example"
	bucketAddr = "192.0.2.24"
)

// clusterName is the name of the site of clusters, which is the load balancer's. Each
// node also has a name and an address of its own.
const clusterName = "registry.cluster.example"

var clusterAddr = nodeAddr(0)

// maxNodes is the number of nodes that have a name and an address.
const maxNodes = 4

// nodeName returns the name of node n, and nodeAddr its address, from 1 on.
func nodeName(n int) string { return fmt.Sprintf("node%d.cluster.example", n) }

func nodeAddr(n int) string { return fmt.Sprintf("192.0.2.%d", 30+n) }

// trustBundle is the file from which all clients read their trusted roots.
const trustBundle = "/etc/ssl/certs/ca-certificates.crt"

// isolate sets up files and addresses for this process, which runs in its own
// namespaces.
func isolate(dir string) error {
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	if err := privateFolder(dir, "/etc", true); err != nil {
		return err
	}
	// podman and skopeo record here which blobs they have seen in which registry.
	if err := privateFolder(dir, "/var/lib/containers", false); err != nil {
		return err
	}
	if err := privateEtc(); err != nil {
		return err
	}
	all := []string{proxyAddr, hubAddr, authAddr, cdnAddr, bucketAddr, clusterAddr}
	for n := range maxNodes {
		all = append(all, nodeAddr(n+1))
	}
	return addresses(all...)
}

// privateFolder mounts a copy of a folder, or an empty folder, over path.
func privateFolder(dir, path string, withContent bool) error {
	own := filepath.Join(dir, "over", strings.ReplaceAll(path[1:], "/", "-"))
	for _, folder := range []string{path, own} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	if withContent {
		if out, err := exec.Command("cp", "-a", path+"/.", own).CombinedOutput(); err != nil {
			return fmt.Errorf("copying %s: %w: %s", path, err, out)
		}
	}
	if err := syscall.Mount(own, path, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting over %s: %w", path, err)
	}
	return nil
}

func privateEtc() error {
	var hosts strings.Builder
	lines := [][2]string{
		{"127.0.0.1", "localhost"}, {"::1", "localhost"}, {proxyAddr, proxyName},
		{hubAddr, hubName}, {authAddr, authName}, {cdnAddr, cdnName}, {bucketAddr, bucketHost}, {clusterAddr, clusterName},
	}
	for n := range maxNodes {
		lines = append(lines, [2]string{nodeAddr(n + 1), nodeName(n + 1)})
	}
	for _, line := range lines {
		fmt.Fprintf(&hosts, "%s %s\n", line[0], line[1])
	}
	// The machine's Docker settings would also apply to the tests' Docker Engine. An
	// unreachable resolver would make a name that is not in the hosts file take
	// seconds.
	for _, path := range []string{"/etc/docker", "/etc/resolv.conf", trustBundle} {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return os.WriteFile("/etc/hosts", []byte(hosts.String()), 0o644)
}

func addresses(addrs ...string) error {
	commands := [][]string{{"link", "set", "lo", "up"}}
	for _, addr := range addrs {
		commands = append(commands, []string{"addr", "add", addr + "/32", "dev", "lo"})
	}
	for _, args := range commands {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}
