// Command upstream serves the made up images of package registry.
//
//	GET /stats   what was sent so far
package main

import (
	"flag"
	"log"

	"github.com/dependencyproxy/caddy-dependency-proxy/bench/registry"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:18081", "address to listen on")
	size := flag.Int64("size", 1<<30, "bytes of the large layers")
	latency := flag.Duration("latency", 0, "wait before each answer")
	rate := flag.Float64("rate", 0, "MiB/s for each connection, 0 for as fast as it goes")
	flag.Parse()

	r := registry.New(registry.Options{Sizes: []int64{*size}, Latency: *latency, Rate: *rate * (1 << 20)})
	r.Image(0) // what everybody asks for is there from the first request on
	log.Fatal(r.Server(*listen).ListenAndServe())
}
