package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// hubClient pulls whole images as containerd does: the digest of a tag by HEAD, the index
// and the manifest by digest, the configuration and the layer.
type hubClient struct {
	settings *settings
	mu       sync.Mutex
	token    string
	since    time.Time // when the token was requested
	runs     uint64    // of during
}

// pulled is the result of a pull.
type pulled struct {
	tag    int
	digest string // that the tag stands for
	took   time.Duration
	status int // of the first response that is not 200, or 0 if that was the last one
	err    error
}

// failed reports whether the client has not received the whole image.
func (p pulled) failed() bool { return p.status != 0 || p.err != nil }

// bearer returns a token that is at most a minute old.
func (p *hubClient) bearer() (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.since) < time.Minute {
		return p.token, nil
	}
	token, err := p.settings.token()
	if err == nil {
		p.token, p.since = token, time.Now()
	}
	return token, err
}

func (p *hubClient) pull(tag int) pulled {
	result := pulled{tag: tag}
	token, err := p.bearer()
	if err != nil {
		return pulled{tag: tag, err: err}
	}
	began := time.Now()
	ask := func(method, path string, into any) bool {
		var header http.Header
		result.status, header, result.err = p.ask(method, path, token, into)
		if method == http.MethodHead {
			result.digest = header.Get("Docker-Content-Digest")
		}
		result.took = time.Since(began)
		return !result.failed()
	}
	var index struct{ Manifests []layer }
	var manifest struct {
		Config layer
		Layers []layer
	}
	if ask(http.MethodHead, fmt.Sprint("manifests/", tag), nil) &&
		ask(http.MethodGet, "manifests/"+result.digest, &index) &&
		ask(http.MethodGet, "manifests/"+index.Manifests[0].Digest, &manifest) {
		for _, blob := range append(manifest.Layers, manifest.Config) {
			if !ask(http.MethodGet, "blobs/"+blob.Digest, nil) {
				break
			}
		}
	}
	return result
}

// ask sends a request and decodes a JSON response. The status is 0 if it is 200.
func (p *hubClient) ask(method, path, token string, into any) (status int, header http.Header, err error) {
	r, err := http.NewRequest(method, p.settings.proxy+"/v2/"+p.settings.repository+"/"+path, nil)
	if err != nil {
		return 0, nil, err
	}
	(&image{token: token}).authorize(r)
	resp, err := many.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, resp.Header, err
	}
	if err == nil && into != nil {
		err = json.Unmarshal(body, into)
	}
	return 0, resp.Header, err
}

// pulls are the results of many pulls.
type pulls []pulled

// during pulls random ones of the first tags with concurrent clients, each with a pause
// after each pull, until the time is over or a number of pulls have begun. It calls
// done after each pull with the number of pulls that have ended.
func (p *hubClient) during(clients, tags int, limit time.Duration, most int64, pause time.Duration, done func(n int64, last pulled)) pulls {
	var mu sync.Mutex
	var all pulls
	var begun atomic.Int64
	var group sync.WaitGroup
	end := time.Now().Add(limit)
	p.runs++
	for client := range clients {
		random := rand.New(rand.NewPCG(p.runs, uint64(client))) // the same tags in every measurement
		group.Go(func() {
			for time.Now().Before(end) && begun.Add(1) <= most {
				got := p.pull(random.IntN(tags))
				mu.Lock()
				all = append(all, got)
				if done != nil {
					done(int64(len(all)), got)
				}
				mu.Unlock()
				time.Sleep(pause)
			}
		})
	}
	group.Wait()
	return all
}

// summary describes the durations and the failures.
func (all pulls) summary() string {
	var took []time.Duration
	failures := make(map[string]int)
	for _, p := range all {
		took = append(took, p.took)
		switch {
		case p.err != nil:
			failures["broken"]++
		case p.status != 0:
			failures[fmt.Sprint(p.status)]++
		}
	}
	if len(all) == 0 {
		return "no pulls"
	}
	slices.Sort(took)
	var failed []string
	for _, what := range slices.Sorted(maps.Keys(failures)) {
		failed = append(failed, fmt.Sprintf("%d times %s", failures[what], what))
	}
	if len(failed) == 0 {
		failed = []string{"none failed"}
	}
	return fmt.Sprintf("%d pulls: p50 %.1f ms  p99 %.1f ms  worst %.1f ms; %s", len(all),
		quantile(took, 0.5), quantile(took, 0.99), quantile(took, 1), strings.Join(failed, ", "))
}
