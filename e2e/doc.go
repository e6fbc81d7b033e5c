// Package e2e contains the end-to-end tests: the built Caddy and a real
// distribution registry with real clients (Docker Engine, podman, skopeo, buildah,
// containerd 1 and 2, crane, regctl, oras, helm, cosign, Chromium).
//
// The tests need root on Linux and the programs that .ci/install installs. They
// have a build tag, so that `go test ./...` needs neither:
//
//	go test -tags e2e -count=1 -v -timeout 40m ./e2e/...
//
// The tests of clusters run several Caddies with a bucket of versitygw, an S3 server,
// kill and restart them, and drop the packets between them, while clients pull through
// all of them.
//
// Some tests put the cache on small, full, read-only and failing file systems, in
// memory and on a loop device.
//
// DEPENDENCY_PROXY_E2E_CADDY names the binary to test. Without it, the tests run
// `./xcaddy.sh build` first.
//
// The test binary runs itself again in its own mount, network and process
// namespaces. There it can use its own name in /etc/hosts, port 443, a certificate
// authority that every client trusts, and a Docker Engine with the usual paths. The
// tests cannot reach the internet and leave nothing on the machine: when the last
// process ends, the kernel removes mounts, addresses and daemons.
package e2e
