//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// load is clients that pull images through all nodes of a cluster until it is stopped.
// Whatever happens meanwhile,
//
//   - a body that is read to its end has its digest,
//   - guests get nothing of an image that their group may not have, and
//   - a pull fails only if its node was down at some time during the pull.
type load struct {
	t       *testing.T
	cluster *cluster
	clients []*http.Client // of the load balancer and the nodes
	images  []image
	secret  image
	members string // a token
	guests  string // a token

	stopped context.CancelFunc
	group   sync.WaitGroup

	mu                       sync.Mutex
	pulls, refusals, excused int
	took                     []time.Duration // by each pull
	problems                 []string
}

// loadClients is the number of members and of guests that pull at the same time.
const loadClients = 3

// startLoad pushes images and starts clients. Stop must be called.
func startLoad(t *testing.T, c *cluster) *load {
	t.Helper()
	l := &load{t: t, cluster: c, clients: clients()}
	for n := range 12 {
		l.images = append(l.images, lab.push.single(t, fmt.Sprintf("library/load-%d", n%4), fmt.Sprint(n), 64<<10, 300<<10, 2<<20))
	}
	l.secret = lab.push.single(t, "secret/load", "1", 200<<10)
	// A token is valid at each node, whichever has issued it.
	first, last := l.clients[1], l.clients[len(c.nodes)]
	l.members, l.guests = clusterToken(t, first, "alice"), clusterToken(t, last, "bob")
	ctx, cancel := context.WithCancel(context.Background())
	l.stopped = cancel
	t.Cleanup(cancel)
	for range loadClients {
		l.group.Go(func() { l.repeat(ctx, l.pull) })
		l.group.Go(func() { l.repeat(ctx, l.probe) })
	}
	return l
}

// stop stops the clients and reports what they have found.
func (l *load) stop() {
	l.t.Helper()
	l.stopped()
	l.group.Wait()
	for _, client := range l.clients {
		client.CloseIdleConnections()
	}
	if l.pulls == 0 || l.refusals == 0 {
		l.t.Fatalf("the load was idle: %d pulls, %d refusals", l.pulls, l.refusals)
	}
	slices.Sort(l.took)
	l.t.Logf("load: %d pulls, in the middle %v and at most %v long; %d refusals of guests, %d failures while a node was down",
		l.pulls, l.took[l.pulls/2].Round(time.Millisecond), l.took[l.pulls-1].Round(time.Millisecond), l.refusals, l.excused)
	for _, problem := range l.problems[:min(len(l.problems), 5)] {
		l.t.Errorf("load: %s", problem)
	}
	if more := len(l.problems) - 5; more > 0 {
		l.t.Errorf("load: and %d more", more)
	}
}

// repeat has a client visit nodes, with a short rest, since the tests have few cores.
func (l *load) repeat(ctx context.Context, visit func(context.Context, *node) error) {
	for ctx.Err() == nil {
		n := l.cluster.any()
		before := n.lives.Load()
		if before%2 == 0 {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		err := visit(ctx, n)
		if err != nil && ctx.Err() == nil {
			l.note(err, errors.Is(err, errInvariant) || n.lives.Load() == before, n)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// errInvariant is an error that nothing excuses.
var errInvariant = errors.New("never")

func (l *load) note(err error, counts bool, n *node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if counts {
		l.problems = append(l.problems, fmt.Sprintf("%s %s: %v", time.Now().Format("15:04:05.000"), n.host, err))
	} else {
		l.excused++
	}
}

// pull pulls an image as a member.
func (l *load) pull(ctx context.Context, n *node) error {
	began := time.Now()
	img := l.secret
	if r := rand.IntN(len(l.images) + 1); r < len(l.images) {
		img = l.images[r]
	}
	content, err := l.get(ctx, n, manifestPath("acme", shortName(img), img.tag), l.members, img.digest)
	if err != nil {
		return err
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(content, &manifest); err != nil {
		return err
	}
	for _, desc := range append(manifest.Layers, manifest.Config) {
		if _, err := l.get(ctx, n, blobPath("acme", shortName(img), desc.Digest.String()), l.members, desc.Digest); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pulls++
	l.took = append(l.took, time.Since(began))
	return nil
}

// get downloads content and compares it with its digest.
func (l *load) get(ctx context.Context, n *node, path, token string, want digest.Digest) ([]byte, error) {
	answer, err := l.send(ctx, n, path, token)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, fmt.Errorf("GET %s: after %d bytes: %w", path, len(body), err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s: %s", path, answer.Status, body)
	}
	if got := digest.FromBytes(body); got != want {
		return nil, fmt.Errorf("%w: GET %s: a body of %d bytes with the digest %s, want %s", errInvariant, path, len(body), got, want)
	}
	return body, nil
}

func (l *load) send(ctx context.Context, n *node, path, token string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+clusterName+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Accept", dockerManifest)
	return l.clients[n.number].Do(request)
}

// probe asks as a guest for an image that guests may not have: by its name, and for its
// content by its digests in a repository that guests may pull.
func (l *load) probe(ctx context.Context, n *node) error {
	other := shortName(l.images[rand.IntN(len(l.images))])
	layer, manifest := l.secret.layers[0].String(), l.secret.digest.String()
	for _, path := range []string{
		manifestPath("guests", l.secret.repository, l.secret.tag),
		manifestPath("guests", l.secret.repository, manifest),
		blobPath("guests", l.secret.repository, layer),
		manifestPath("guests", other, manifest),
		blobPath("guests", other, layer),
	} {
		answer, err := l.send(ctx, n, path, l.guests)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil {
			return fmt.Errorf("GET %s: %w", path, err)
		}
		secret := strings.Contains(path, l.secret.repository)
		switch {
		case answer.StatusCode < http.StatusBadRequest:
			return fmt.Errorf("%w: GET %s: a guest got %s", errInvariant, path, answer.Status)
		case secret && answer.StatusCode != http.StatusForbidden, !secret && answer.StatusCode != http.StatusNotFound:
			return fmt.Errorf("GET %s: %s: %s", path, answer.Status, body)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusals++
	return nil
}

// clients returns a client of the load balancer and of each node.
func clients() (all []*http.Client) {
	for n := range maxNodes + 1 {
		all = append(all, clientOf(n))
	}
	return all
}

// clientOf returns a client that reaches the name of the cluster at the address of a
// node, or at that of the load balancer, 0.
func clientOf(n int) *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &http.Client{
		Timeout: time.Minute,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, network, nodeAddr(n)+":443")
			},
			TLSClientConfig: &tls.Config{RootCAs: lab.roots}, MaxIdleConnsPerHost: 2 * loadClients,
		},
	}
}

// clusterToken requests a token for the name of the cluster.
func clusterToken(t *testing.T, client *http.Client, account string) string {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, "https://"+clusterName+"/jwt/auth?service=dependency_proxy", nil)
	must(t, err)
	request.SetBasicAuth(account, password)
	got, err := client.Do(request)
	must(t, err)
	var reply struct{ Token string }
	if body := readAll(t, got); json.Unmarshal(body, &reply) != nil || reply.Token == "" {
		t.Fatalf("no token for %s: %s %s", account, got.Status, body)
	}
	return reply.Token
}
