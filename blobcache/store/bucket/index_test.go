package bucket

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

const scope = "acme/_/hub/library/alpine"

func addLink(t *testing.T, x *index.Index, d digest.Digest) {
	t.Helper()
	if err := x.AddDelivery(t.Context(), scope, d, index.Link{Size: 7}); err != nil {
		t.Fatal(err)
	}
}

func setRef(t *testing.T, x *index.Index, d digest.Digest, checked time.Time) {
	t.Helper()
	if err := x.SetRef(t.Context(), scope, "latest", index.Ref{Digest: d, Size: 7, Checked: checked}); err != nil {
		t.Fatal(err)
	}
}

// TestIndexOfCluster: a node learns the links, deliveries and refs of another one. It
// learns that a ref was confirmed when it asks because its own is not fresh, and each
// confirmation counts.
func TestIndexOfCluster(t *testing.T) {
	server := s3test.New(t)
	one, two := newNode(t, server), newNode(t, server)
	x, y := index.New(one), index.New(two)
	a, b := digest.FromString("a"), digest.FromString("b")
	began := time.Now().Truncate(time.Second)
	addLink(t, x, a)
	setRef(t, x, a, began)
	one.flush(t)
	if link, err := y.Link(t.Context(), scope, a); link.Size != 7 || err != nil {
		t.Errorf("link %+v, %v", link, err)
	}
	if delivery, err := y.Delivery(t.Context(), scope, a); delivery.Size != 7 || err != nil {
		t.Errorf("delivery %+v, %v", delivery, err)
	}
	if ref, err := y.Ref(t.Context(), scope, "latest"); ref.Digest != a || err != nil {
		t.Errorf("ref %+v, %v", ref, err)
	}
	setRef(t, x, a, began.Add(time.Minute)) // confirmed, without a change
	one.flush(t)
	later, ok := y.LaterRef(t.Context(), scope, "latest")
	if !ok || !later.Learned || !later.Checked.Equal(began.Add(time.Minute)) {
		t.Errorf("later ref %+v, %v; want the confirmation", later, ok)
	}
	stores := server.Requests(http.MethodPut)
	if err := y.SetRef(t.Context(), scope, "latest", later); err != nil {
		t.Fatal(err)
	}
	two.flush(t)
	if ref, err := y.Ref(t.Context(), scope, "latest"); !ref.Checked.Equal(later.Checked) || err != nil || server.Requests(http.MethodPut) != stores {
		t.Errorf("learned: ref %+v, %v, and %d requests that write; want the confirmation and none", ref, err, server.Requests(http.MethodPut)-stores)
	}
	if later, ok := y.LaterRef(t.Context(), scope, "latest"); ok {
		t.Errorf("later ref %+v, want none that is later", later)
	}
	setRef(t, y, b, began.Add(2*time.Minute))
	server.Set(s3test.Faults{Down: true})
	if later, ok := y.LaterRef(t.Context(), scope, "latest"); ok {
		t.Errorf("without the bucket: %+v", later)
	}
	server.Set(s3test.Faults{})
	two.flush(t)
	setRef(t, x, a, began.Add(3*time.Minute))
	if later, ok := x.LaterRef(t.Context(), scope, "latest"); ok {
		t.Errorf("an earlier value of another node: %+v; want none", later)
	}
}

// TestReloadOnce: what the bucket has under a key is asked for once within some seconds,
// and nothing is asked about records that are not shared.
func TestReloadOnce(t *testing.T) {
	server := s3test.New(t)
	c := configOf(t, server, t.TempDir())
	c.waits.absent = time.Hour
	n := start(t, c)
	if err := n.Save(t.Context(), "refs/known", []byte("1")); err != nil {
		t.Fatal(err)
	}
	n.flush(t)
	for _, key := range []string{"refs/known", "refs/unknown", "usage/own"} {
		before, want := server.Requests(http.MethodGet), 1
		for range 3 {
			if value, err := n.Reload(t.Context(), key); (key == "refs/known") != (err == nil && string(value) == "1") {
				t.Errorf("%s: %q, %v", key, value, err)
			}
		}
		if key == "usage/own" {
			want = 0
		}
		if got := server.Requests(http.MethodGet) - before; got != want {
			t.Errorf("%s: %d requests, want %d", key, got, want)
		}
	}
	// A caller that leaves does not end the question, whose answer serves the next one.
	server.Set(s3test.Faults{Stalled: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Reload(ctx, "links/known"); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that has left: %v", err)
	}
	if since, _ := n.reads.state(); !since.IsZero() {
		t.Error("the bucket counts as failing because a caller has left")
	}
}

// TestIndexForgetsLocally: what a node forgets because it does not have the content is
// still known to others; what is purged is gone from the bucket, also if the node never
// knew it.
func TestIndexForgetsLocally(t *testing.T) {
	server := s3test.New(t)
	one, two := newNode(t, server), newNode(t, server)
	x, y := index.New(one), index.New(two)
	a := digest.FromString("a")
	addLink(t, x, a)
	setRef(t, x, a, time.Now())
	one.flush(t)
	later := time.Now().Add(time.Hour)
	if err := x.ForgetLink(t.Context(), scope, a); err != nil {
		t.Fatal(err)
	}
	if err := x.Forget(t.Context(), later, func(digest.Digest) bool { return true }); err != nil {
		t.Fatal(err)
	}
	one.flush(t)
	if got := len(server.Keys()); got != 3 {
		t.Fatalf("the bucket has %v, want the link, the delivery and the ref", server.Keys())
	}
	if link, err := x.Link(t.Context(), scope, a); link.Size != 7 || err != nil {
		t.Errorf("link after it was forgotten: %+v, %v", link, err)
	}
	if _, err := y.Purge(t.Context(), "acme", func(digest.Digest) {}); err != nil {
		t.Fatal(err)
	}
	two.flush(t)
	if _, err := y.Link(t.Context(), scope, a); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("link after a purge: %v", err)
	}
	if got := server.Keys(); len(got) != 2 {
		t.Errorf("the bucket has %v after a purge, want the delivery and the purge", got)
	}
}
