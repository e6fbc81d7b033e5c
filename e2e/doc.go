// Package e2e holds the end-to-end tests: the built Caddy, a real distribution
// registry and the real clients (Docker Engine, podman, skopeo, buildah,
// containerd, crane, regctl, oras, Chromium) against each other.
//
// They need root on Linux and the programs that .ci/install installs, and sit
// behind a build tag so that `go test ./...` needs neither:
//
//	go test -tags e2e -count=1 -v -timeout 40m ./e2e/...
//
// Some take the disk from under the cache: small, full, read-only and failing
// file systems, in memory and on a loop device.
//
// DEPENDENCY_PROXY_E2E_CADDY names the binary to test; without it the tests run
// `./xcaddy.sh build` first.
//
// The test binary runs itself again in mount, network and process namespaces of
// its own. There it can have a name of its own in /etc/hosts, port 443, a
// certificate authority that every client trusts, a Docker Engine with the usual
// paths; nothing reaches the internet, and nothing is left on the machine: with
// the last process the kernel takes away mounts, addresses and daemons.
package e2e
