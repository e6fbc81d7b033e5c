package peers

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer is a DNS server on the loopback that knows the addresses and services of
// one name, and says that others do not exist.
type nameServer struct {
	address string
	mu      sync.Mutex
	silent  bool // it does not answer
	a       []net.IP
	srv     []dnsmessage.SRVResource
}

func newNameServer(t *testing.T) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { _ = conn.Close(); <-ended })
	s := &nameServer{address: conn.LocalAddr().String()}
	go func() {
		defer close(ended)
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := s.answer(buf[:n]); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return s
}

func (s *nameServer) set(change func(*nameServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *nameServer) answer(query []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var m dnsmessage.Message
	if s.silent || m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	header := dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 1}
	switch m.Questions[0].Type {
	case dnsmessage.TypeA:
		for _, ip := range s.a {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: [4]byte(ip.To4())}})
		}
	case dnsmessage.TypeSRV:
		for _, srv := range s.srv {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &srv})
		}
	}
	if len(s.a) == 0 && len(s.srv) == 0 {
		m.RCode = dnsmessage.RCodeNameError
	}
	answer, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return answer
}

// dynamicConfig returns a configuration with a module, whose answers it does not
// remember. Modules share what they remember in the whole process, so each test has a
// name of its own.
func (n *network) dynamicConfig(s *nameServer, source, members string) *Config {
	raw := fmt.Sprintf(`{"source":%q,%s,"refresh":1,"resolver":{"addresses":["udp/%s"]}}`, source, members, s.address)
	return &Config{DynamicRaw: json.RawMessage(raw), TransportRaw: n.transport("")}
}

// TestServicesInDNS checks a list from SRV records: it is followed, kept while the
// name server does not answer or knows nothing, and its trailing dots are dropped.
func TestServicesInDNS(t *testing.T) {
	n, dns := newNetwork(t), newNameServer(t)
	service := func(s *server) dnsmessage.SRVResource {
		port := s.Listener.Addr().(*net.TCPAddr).Port
		return dnsmessage.SRVResource{Target: dnsmessage.MustNewName("LocalHost."), Port: uint16(port)}
	}
	s := []*server{n.listen(), n.listen(), n.listen()}
	for _, s := range s {
		_, port, _ := net.SplitHostPort(s.name)
		s.name = net.JoinHostPort("localhost", port)
	}
	dns.set(func(dns *nameServer) { dns.srv = []dnsmessage.SRVResource{service(s[0]), service(s[1])} })
	config := func() *Config { return n.dynamicConfig(dns, "srv", `"name":"_proxy._tcp.services.test"`) }
	c := n.run(s[0], config())
	n.run(s[1], config())
	n.run(s[2], config())
	c.refresh(t.Context())
	if !isAsked(c, c.node(t, s[1])) || len(*c.nodes.Load()) != 2 {
		t.Errorf("got list %v, want two nodes", names(*c.nodes.Load()))
	}
	kept := c.node(t, s[1])
	dns.set(func(dns *nameServer) { dns.srv = []dnsmessage.SRVResource{service(s[2]), service(s[1]), service(s[0])} })
	c.refresh(t.Context())
	if !isAsked(c, c.node(t, s[2])) || c.node(t, s[1]) != kept || len(*c.nodes.Load()) != 3 {
		t.Errorf("got list %v, want a third node and the state of the others kept", names(*c.nodes.Load()))
	}
	before := names(*c.nodes.Load())
	dns.set(func(dns *nameServer) { dns.srv = nil })
	c.refresh(t.Context())
	if got := names(*c.nodes.Load()); !slices.Equal(got, before) || n.logs.FilterMessageSnippet("cannot look up").Len() != 1 {
		t.Errorf("got list %v after the name is gone, want it kept, and a line in the log", got)
	}
	c.times.lookup = 100 * time.Millisecond
	dns.set(func(dns *nameServer) { dns.silent = true })
	c.refresh(t.Context())
	if got := names(*c.nodes.Load()); !slices.Equal(got, before) || !isAsked(c, kept) {
		t.Errorf("got list %v from a name server that does not answer, want it kept", got)
	}
}

// TestAddressesInDNS checks a list from A records, where a node finds itself among the
// addresses.
func TestAddressesInDNS(t *testing.T) {
	n, dns := newNetwork(t), newNameServer(t)
	s := n.listen()
	_, port, _ := net.SplitHostPort(s.name)
	dns.set(func(dns *nameServer) { dns.a = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(127, 0, 0, 99)} })
	c := n.run(s, n.dynamicConfig(dns, "a", fmt.Sprintf(`"name":"addresses.test","port":%q,"versions":{"ipv4":true}`, port)))
	c.refresh(t.Context())
	if got, want := names(*c.nodes.Load()), []string{"127.0.0.1:" + port, "127.0.0.99:" + port}; !slices.Equal(got, want) {
		t.Fatalf("got list %v, want %v", got, want)
	}
	if got := c.node(t, s).id(); got != c.id {
		t.Errorf("got id %q of this node's entry, want %q", got, c.id)
	}
	if isAsked(c, (*c.nodes.Load())[1]) {
		t.Error("got an address asked at which nothing listens, want it not asked")
	}
}
