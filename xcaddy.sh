#!/usr/bin/env bash
# Builds Caddy with this plugin and runs the example.
#
#   ./xcaddy.sh [build]   builds ./caddy
#   ./xcaddy.sh run       builds if necessary, then runs Caddyfile.example
#
# The Caddy version is the one that go.mod requires. If xcaddy is on PATH, it does
# the build (XCADDY names another xcaddy; an empty XCADDY disables it). Otherwise
# this script generates the same main package and builds it with Go, which does
# not need the network once the modules are in Go's cache.
set -eu

cd "$(dirname "$0")"
root=$PWD
state=$root/.dependency_proxy

usage() {
	echo "usage: $0 [build|run]" >&2
	exit 2
}

build() {
	module=$(go list -m)
	caddy_version=$(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)
	xcaddy=${XCADDY-$(command -v xcaddy || true)}
	echo "building ./caddy: Caddy $caddy_version with $module" >&2
	if [ -n "$xcaddy" ]; then
		# With a version, Go does not look up the local copy in a module proxy. The
		# path is absolute because xcaddy builds in another folder.
		CGO_ENABLED=0 "$xcaddy" build "$caddy_version" \
			--with "$module@v0.0.0=$root" --output "$root/caddy"
	else
		build_with_go
	fi
}

# build_with_go builds with the module versions that go.mod requires, which are
# the tested ones. It uses a folder outside of the tree, so that an interrupted
# build does not leave files in it.
build_with_go() {
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	cat >"$work/main.go" <<-END
		package main

		import (
			caddycmd "github.com/caddyserver/caddy/v2/cmd"
			_ "github.com/caddyserver/caddy/v2/modules/standard"

			_ "$module"
		)

		func main() { caddycmd.Main() }
	END
	sed 's|^module .*|module caddy|' go.mod >"$work/go.mod"
	cp go.sum "$work/go.sum"
	(
		cd "$work"
		go mod edit -require="$module@v0.0.0" -replace="$module=$root"
		# -mod=mod lets Go complete this temporary go.mod.
		CGO_ENABLED=0 GOWORK=off go build -mod=mod -trimpath -ldflags '-s -w' -o "$root/caddy" .
	)
	rm -rf "$work"
	trap - EXIT
}

# stale reports whether ./caddy is missing or older than its sources.
stale() {
	[ -x caddy ] || return 0
	newer=$(find . -path "./.*" -prune -o -type f -newer caddy \
		\( -name '*.go' ! -name '*_test.go' -o -name go.mod -o -name go.sum \) -print)
	[ -n "$newer" ]
}

run() {
	if stale; then build; fi
	export XDG_DATA_HOME="$state/data" XDG_CONFIG_HOME="$state/config"
	mkdir -p "$XDG_DATA_HOME" "$XDG_CONFIG_HOME"
	cat <<-END
		Starting on https://localhost:8443, images from ${DEPENDENCY_PROXY_UPSTREAM:-Docker Hub}.

		  docker login localhost:8443          (account demo, password demo)
		  docker pull localhost:8443/demo/dependency_proxy/containers/alpine:3.20

		Docker does not verify certificates of localhost. Other clients need the certificate
		authority that Caddy creates at its first start:
		  $XDG_DATA_HOME/caddy/pki/authorities/local/root.crt
		  crane, regctl, oras      SSL_CERT_FILE=<that file> crane auth login localhost:8443
		  podman, skopeo, buildah  --cert-dir <a folder with a copy of that file>
		  containerd               ctr images pull --tlscacert <that file> …

		Certificates and cached images are kept in .dependency_proxy/; Ctrl-C stops the server.

	END
	exec ./caddy run --config Caddyfile.example --adapter caddyfile
}

[ $# -le 1 ] || usage
case ${1-build} in
build) build ;;
run) run ;;
*) usage ;;
esac
