// Command measure measures servers that bench/run has started, and prints the
// results. It runs on Linux only. Its subcommands are:
//
//	warm       a cached blob, compared with nginx
//	tls        the same over TLS, with HTTP/1.1 and with HTTP/2
//	manifest   a manifest by tag, compared with Caddy's respond
//	cold       many clients and one blob that is not cached
//	logins     authentication, and the removal of a member
//	enumerate  the duration of failed logins
//	storm      pulls during an attack on passwords
//	direct     blobs that are not cached, compared with upstream and nginx
//	parallel   the same with an upstream that limits each connection
//	crowd      many clients that request ranges of one blob
//	scale      start, sweep and latency of a large cache
//	outage     pulls of cached tags while upstream is silent, and while it is slow
//	ratelimit  pulls from an upstream with a pull limit
//	cluster    many clients and one blob that is not cached, with several nodes
//	bucket     blobs that only a bucket has, and what a bucket costs
//	populate   creates a large cache
//	fetch      prints a manifest
//	pull       pulls the large blob until it is cached
//	certificate  writes a certificate for the servers of tls
//	users      prints accounts for the Caddyfile
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"time"
)

// settings are the flags, which bench/run sets.
type settings struct {
	proxy, nginx, upstream  string // URLs
	proxyPID, nginxPID      int
	repository, upstreamFor string // through the proxy, and at upstream
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
	proxyTLS, nginxTLS      string // URLs

	versitygw string  // a binary
	port      int     // the first of those of the nodes
	rate      float64 // MiB/s of each connection to the bucket, as that to upstream

	fresh, silence, slow, abusive time.Duration
	empty                         bool
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("measure: ")
	if len(os.Args) < 2 {
		log.Fatal("usage: measure warm|tls|manifest|cold|direct|parallel|crowd|scale|outage|ratelimit|cluster|bucket|populate|logins|enumerate|storm|fetch|pull|users [flags]")
	}
	s := parse(os.Args[2:])
	commands := map[string]func(*settings) error{
		"warm": warm, "tls": overTLS, "certificate": certificate, "manifest": manifest, "cold": cold, "direct": direct, "parallel": parallel,
		"crowd": crowd, "scale": scale, "outage": outage, "ratelimit": ratelimit, "cluster": cluster, "bucket": bucket, "populate": populate, "logins": logins, "enumerate": enumerate,
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

// parse parses the flags of a subcommand.
func parse(args []string) *settings {
	var s settings
	f := flag.NewFlagSet("measure", flag.ExitOnError)
	f.StringVar(&s.proxy, "proxy", "http://127.0.0.1:18080", "URL of the proxy")
	f.IntVar(&s.proxyPID, "proxy-pid", 0, "process of the proxy")
	f.StringVar(&s.repository, "repository", "acme/dependency_proxy/containers/bench", "repository at the proxy")
	f.StringVar(&s.user, "user", "bench", "account")
	f.StringVar(&s.password, "password", "bench", "password of the account")
	f.StringVar(&s.nginx, "nginx", "http://127.0.0.1:18082", "URL of nginx, whose root is the cache's folder of blobs")
	f.IntVar(&s.nginxPID, "nginx-pid", 0, "master process of nginx")
	f.StringVar(&s.upstream, "upstream", "http://127.0.0.1:18081", "URL of upstream")
	f.StringVar(&s.upstreamFor, "upstream-repository", "bench", "repository at upstream")
	f.StringVar(&s.respond, "respond", "http://127.0.0.1:18083", "URL of a site that serves the manifest by respond")
	f.StringVar(&s.respondPlain, "respond-plain", "http://127.0.0.1:18084", "URL of the same with other characters in place of braces")
	f.IntVar(&s.clients, "clients", 1, "number of concurrent clients or connections")
	f.IntVar(&s.rounds, "rounds", 7, "number of measurements of each side")
	f.IntVar(&s.pulls, "pulls", 1, "number of pulls of each client in a round (warm)")
	f.BoolVar(&s.copying, "copy", false, "clients copy the received bytes instead of discarding them in the kernel")
	f.StringVar(&s.wrk, "wrk", "wrk", "load generator (manifest)")
	f.IntVar(&s.wrkThreads, "wrk-threads", 1, "threads of the load generator")
	f.IntVar(&s.seconds, "seconds", 4, "duration of a measurement in seconds (manifest)")
	f.StringVar(&s.proxyTLS, "proxy-tls", "https://127.0.0.1:18086", "URL of the proxy over TLS (tls)")
	f.StringVar(&s.nginxTLS, "nginx-tls", "https://127.0.0.1:18087", "URL of nginx over TLS (tls)")
	f.StringVar(&s.admin, "admin", "http://127.0.0.1:18085", "URL of Caddy's admin API (logins)")
	f.IntVar(&s.accounts, "accounts", 64, "number of further accounts, all with the same password (logins, storm, users)")
	f.IntVar(&s.cost, "cost", 10, "bcrypt cost of their hashes")
	f.StringVar(&s.cache, "cache", "", "folder of the cache (direct, parallel, scale, populate)")
	f.StringVar(&s.nginxCache, "nginx-cache", "", "folder of nginx's proxy_cache (direct)")
	f.IntVar(&s.count, "count", 1000, "number of blobs (scale, populate)")
	f.StringVar(&s.caddy, "caddy", "./caddy", "Caddy binary (scale)")
	f.StringVar(&s.data, "data", "", "folder of Caddy's own data (scale, cluster, bucket), or for the certificate (certificate)")
	f.StringVar(&s.unbounded, "caddyfile", "", "Caddyfile without a size limit (scale)")
	f.StringVar(&s.bounded, "caddyfile-bounded", "", "Caddyfile with a size limit that requires eviction (scale)")
	f.StringVar(&s.versitygw, "versitygw", "versitygw", "object store (cluster, bucket)")
	f.IntVar(&s.port, "port", 18088, "the first of eleven ports of the nodes and the object store (cluster, bucket)")
	f.Float64Var(&s.rate, "rate", 0, "rate of each connection to the object store in MiB/s, 0 for no limit (bucket)")
	s.hubFlags(f)
	_ = f.Parse(args) // exits
	return &s
}

// hubFlags adds the flags of outage and ratelimit.
func (s *settings) hubFlags(f *flag.FlagSet) {
	f.DurationVar(&s.fresh, "fresh", 5*time.Second, "fresh_for of the upstream (outage, ratelimit)")
	f.DurationVar(&s.silence, "silence", 10*time.Minute, "how long upstream is silent (outage)")
	f.DurationVar(&s.slow, "slow", time.Minute, "how long it is slow (outage)")
	f.DurationVar(&s.abusive, "abusive", 5*time.Minute, "how long it refuses everything (ratelimit)")
	f.BoolVar(&s.empty, "empty", false, "starts with an empty cache (ratelimit)")
}

// fetch prints the manifest of the tag latest.
func fetch(s *settings) error {
	image, err := s.image("latest")
	if err == nil {
		_, err = os.Stdout.Write(image.manifest)
	}
	return err
}

// pull pulls the large blob until the response is a hit, so that it is stored in the
// cache.
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
	return errors.New("the blob is not cached after 20 pulls")
}

const gb = 1e9 // bytes

// perGB formats CPU time in seconds per GB.
func perGB(cpu time.Duration, bytes int64) string {
	return fmt.Sprintf("%.3f", cpu.Seconds()/(float64(bytes)/gb))
}
