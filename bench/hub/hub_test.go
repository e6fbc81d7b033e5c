package hub

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// ask sends a request and returns the response, whose body is closed.
func ask(t *testing.T, method, address string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer bench")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp
}

// TestHubLimit checks that GET counts and HEAD does not, that both are refused when
// nothing is left, and that a new window begins.
func TestHubLimit(t *testing.T) {
	h := New(Options{Tags: 2, Limit: 2, Window: time.Hour})
	server := httptest.NewServer(h)
	defer server.Close()
	manifest := server.URL + "/v2/bench/manifests/"
	for _, step := range []struct {
		method, reference string
		status            int
		remaining         string
	}{
		{"HEAD", "0", 200, "2;w=3600"},
		{"GET", "0", 200, "1;w=3600"},
		{"GET", h.Digest(1), 200, "0;w=3600"},
		{"GET", "none", 404, ""},
		{"GET", "1", 429, "0;w=3600"},
		{"HEAD", "1", 429, "0;w=3600"},
	} {
		resp := ask(t, step.method, manifest+step.reference)
		if got := resp.Header.Get("ratelimit-remaining"); resp.StatusCode != step.status || got != step.remaining {
			t.Errorf("%s %s: got %d, %q remaining, want %d, %q", step.method, step.reference, resp.StatusCode, got, step.status, step.remaining)
		}
	}
	h.Renew()
	before := h.Digest(0)
	h.Move(0)
	if resp := ask(t, "GET", manifest+"0"); resp.StatusCode != 200 || resp.Header.Get("Docker-Content-Digest") == before {
		t.Errorf("got %d and digest %s for a tag that has moved from %s, want 200 and another one", resp.StatusCode, resp.Header.Get("Docker-Content-Digest"), before)
	}
	if got, want := h.Counts(), (Counts{Requests: 7, Checks: 1, Pulls: 3, Limited: 2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestHubModes checks that an abusive Hub refuses everything, and that a silent one
// answers nothing, also not later.
func TestHubModes(t *testing.T) {
	h := New(Options{Tags: 1})
	server := httptest.NewServer(h)
	defer server.Close()
	h.Answer(Abusive, 0)
	if resp := ask(t, "HEAD", server.URL+"/v2/bench/manifests/0"); resp.StatusCode != 429 {
		t.Errorf("got %d, want 429", resp.StatusCode)
	}
	h.Answer(Silent, 0)
	ended := make(chan error)
	// A client asks once more over another connection if one that it has used before breaks.
	fresh := &http.Client{Transport: new(http.Transport)}
	defer fresh.CloseIdleConnections()
	go func() {
		resp, err := fresh.Get(server.URL + "/v2/")
		if err == nil {
			_ = resp.Body.Close()
		}
		ended <- err
	}()
	for h.Counts().Requests < 2 {
		time.Sleep(time.Millisecond)
	}
	h.Answer(Healthy, 0)
	if err := <-ended; err == nil {
		t.Error("got an answer to a request from before, want none")
	}
	if resp := ask(t, "GET", server.URL+"/v2/bench/manifests/0"); resp.StatusCode != 200 {
		t.Errorf("got %d, want 200", resp.StatusCode)
	}
}
