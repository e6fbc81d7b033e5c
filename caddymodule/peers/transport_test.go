package peers

import (
	"net/http"
	"testing"
)

// TestNodesUseHTTP1 checks which version of HTTP is used between nodes.
func TestNodesUseHTTP1(t *testing.T) {
	for name, row := range map[string]struct{ lines, want string }{
		"default":    {"", "HTTP/1.1"},
		"configured": {`,"versions":["2"]`, "HTTP/2.0"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t)
			from, to := n.listen(), n.listen()
			config := &Config{To: n.names(), TransportRaw: n.transport(row.lines)}
			c := n.run(from, config)
			n.run(to, n.config(n.names()...))
			c.refresh(t.Context())
			proto := make(chan string, 1)
			to.set(func(s *server) {
				s.handler = func(_ http.ResponseWriter, r *http.Request) { proto <- r.Proto }
			})
			resp, err := c.node(t, to).Get(t.Context(), someAsk(), nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if got := <-proto; got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}
