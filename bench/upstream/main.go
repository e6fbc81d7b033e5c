// Command upstream serves the generated images of package registry, and GET /stats
// with the number of requests and bytes sent.
package main

import (
	"flag"
	"log"

	"github.com/dependencyproxy/caddy-dependency-proxy/bench/registry"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:18081", "address to listen on")
	size := flag.Int64("size", 1<<30, "size of the large layers in bytes")
	latency := flag.Duration("latency", 0, "delay of each response")
	rate := flag.Float64("rate", 0, "rate of each connection in MiB/s, 0 for no limit")
	flag.Parse()

	r := registry.New(registry.Options{Sizes: []int64{*size}, Latency: *latency, Rate: *rate * (1 << 20)})
	r.Image(0) // generated in advance, so that the first request is not delayed
	log.Fatal(r.Server(*listen).ListenAndServe())
}
