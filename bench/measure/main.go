// Command measure asks servers that bench/run has started, and prints what
// they did. It runs on Linux only.
//
//	measure warm      a cached blob, against nginx
//	measure manifest  a manifest by tag, against Caddy's own respond
//	measure cold      many clients on one blob that is not cached
//	measure logins    finding out who is asking, and that somebody may no longer
//	measure enumerate what time tells of which accounts there are
//	measure storm     pulls while many guess passwords
//	measure direct    blobs that are not cached, against upstream itself and nginx
//	measure parallel  the same with an upstream that limits each connection
//	measure crowd     many clients that come one after the other and want ranges
//	measure scale     start, sweep and latency of a large cache
//	measure shelf     makes a large cache
//	measure fetch     a manifest to standard output
//	measure pull      the large blob, to have it cached
//	measure users     accounts for the Caddyfile to standard output
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"time"
)

// settings are what bench/run knows.
type settings struct {
	proxy, nginx, upstream  string // URLs
	proxyPID, nginxPID      int
	repository, upstreamFor string // through the proxy, and at the upstream
	user, password          string
	clients, rounds, pulls  int
	copying                 bool
	wrk                     string
	wrkThreads              int
	seconds                 int
	respond, respondPlain   string
	admin                   string
	accounts, cost          int
	cache, nginxCache       string // folders
	count                   int
	caddy, data             string // a binary, and its folder
	unbounded, bounded      string // Caddyfiles
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("measure: ")
	if len(os.Args) < 2 {
		log.Fatal("usage: measure warm|manifest|cold|direct|parallel|crowd|scale|shelf|logins|enumerate|storm|fetch|pull|users [flags]")
	}
	s := parse(os.Args[2:])
	commands := map[string]func(*settings) error{
		"warm": warm, "manifest": manifest, "cold": cold, "direct": direct, "parallel": parallel,
		"crowd": crowd, "scale": scale, "shelf": shelf, "logins": logins, "enumerate": enumerate,
		"storm": storm, "fetch": fetch, "pull": pull, "users": users,
	}
	run := commands[os.Args[1]]
	if run == nil {
		log.Fatalf("unknown command %s", os.Args[1])
	}
	if err := run(s); err != nil {
		log.Fatalf("%s: %v", os.Args[1], err)
	}
}

func parse(args []string) *settings {
	var s settings
	f := flag.NewFlagSet("measure", flag.ExitOnError)
	f.StringVar(&s.proxy, "proxy", "http://127.0.0.1:18080", "the proxy")
	f.IntVar(&s.proxyPID, "proxy-pid", 0, "its process")
	f.StringVar(&s.repository, "repository", "acme/dependency_proxy/containers/bench", "what is pulled")
	f.StringVar(&s.user, "user", "bench", "account")
	f.StringVar(&s.password, "password", "bench", "its password")
	f.StringVar(&s.nginx, "nginx", "http://127.0.0.1:18082", "nginx, with the cache's blobs as its root")
	f.IntVar(&s.nginxPID, "nginx-pid", 0, "its master process")
	f.StringVar(&s.upstream, "upstream", "http://127.0.0.1:18081", "the upstream registry")
	f.StringVar(&s.upstreamFor, "upstream-repository", "bench", "the repository there")
	f.StringVar(&s.respond, "respond", "http://127.0.0.1:18083", "a site that answers the manifest by respond")
	f.StringVar(&s.respondPlain, "respond-plain", "http://127.0.0.1:18084", "the same with as many bytes and no braces")
	f.IntVar(&s.clients, "clients", 1, "how many at once (warm, cold, manifest's connections)")
	f.IntVar(&s.rounds, "rounds", 7, "how often each side is measured")
	f.IntVar(&s.pulls, "pulls", 1, "how often each client pulls in a round (warm)")
	f.BoolVar(&s.copying, "copy", false, "clients copy what they receive, as real ones do, instead of discarding it in the kernel")
	f.StringVar(&s.wrk, "wrk", "wrk", "the load generator (manifest)")
	f.IntVar(&s.wrkThreads, "wrk-threads", 1, "its threads")
	f.IntVar(&s.seconds, "seconds", 4, "how long each side runs in a round (manifest)")
	f.StringVar(&s.admin, "admin", "http://127.0.0.1:18085", "Caddy's admin API (logins)")
	f.IntVar(&s.accounts, "accounts", 64, "how many more accounts there are, all with that password (logins, storm, users)")
	f.IntVar(&s.cost, "cost", 10, "bcrypt's cost of their hashes")
	f.StringVar(&s.cache, "cache", "", "the cache's folder (direct, parallel, scale, shelf)")
	f.StringVar(&s.nginxCache, "nginx-cache", "", "the folder of nginx's proxy_cache (direct)")
	f.IntVar(&s.count, "count", 1000, "how many blobs there are (scale, shelf)")
	f.StringVar(&s.caddy, "caddy", "./caddy", "the binary that is started (scale)")
	f.StringVar(&s.data, "data", "", "the folder of its own data (scale)")
	f.StringVar(&s.unbounded, "caddyfile", "", "a Caddyfile that keeps all of the cache (scale)")
	f.StringVar(&s.bounded, "caddyfile-bounded", "", "one that must evict (scale)")
	_ = f.Parse(args) // exits
	return &s
}

// fetch prints the manifest.
func fetch(s *settings) error {
	image, err := s.image("latest")
	if err == nil {
		_, err = os.Stdout.Write(image.manifest)
	}
	return err
}

// pull has the large blob cached, and waits until the cache has it for good:
// until an answer says that it was a hit.
func pull(s *settings) error {
	image, err := s.image("latest")
	if err != nil {
		return err
	}
	for range 20 {
		got, err := image.blob(s.proxy, s.repository).do(s.copying)
		if err != nil {
			return err
		}
		if got.hit {
			return nil
		}
		time.Sleep(500 * time.Millisecond)
	}
	return errors.New("the blob does not stay in the cache")
}

const gb = 1e9

func perGB(cpu time.Duration, bytes int64) string {
	return fmt.Sprintf("%.3f", cpu.Seconds()/(float64(bytes)/gb))
}
