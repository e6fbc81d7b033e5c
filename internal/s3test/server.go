// Package s3test has an object store for tests: an HTTP server that answers the
// requests of the S3 API that a client of this module makes, with one bucket in
// memory. It requires signatures, and verifies those of signed URLs. [Faults] make it
// fail in the ways that object stores fail.
package s3test

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Bucket is the name of the only bucket.
const Bucket = "images"

// Server is an object store. Its methods may be called concurrently.
type Server struct {
	URL string // of the endpoint, without the bucket

	mu       sync.Mutex
	objects  map[string]*object
	sorted   []string // the keys of all objects, and perhaps of some that are gone; nil if it is out of date
	uploads  map[string]*upload
	faults   Faults
	secret   string         // of the access key
	requests map[string]int // by method
	stores   map[string]int // by key
	serial   int
	page     int           // of listings
	ahead    time.Duration // of the clock of this machine
	answered func(method, uri string)
	freed    chan struct{} // closed when the faults change, so that stalled requests go on
}

// object is stored content with its headers.
type object struct {
	content  []byte
	modified time.Time
	header   http.Header // what the request that stored it set: type, metadata and checksums
	unlisted bool        // not in listings yet
}

func (o *object) etag() string {
	sum := md5.Sum(o.content)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server {
	s := &Server{
		objects: make(map[string]*object), uploads: make(map[string]*upload),
		requests: make(map[string]int), stores: make(map[string]int), freed: make(chan struct{}), page: maxKeys,
	}
	server := httptest.NewServer(s)
	s.URL = server.URL
	t.Cleanup(func() {
		s.Set(Faults{})
		server.CloseClientConnections()
		server.Close()
	})
	return s
}

// Put stores an object, as another client of the bucket does.
func (s *Server) Put(key string, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(key, &object{content: bytes.Clone(content), modified: s.now()})
}

// Get returns the content of an object, and whether it is stored.
func (s *Server) Get(key string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[key]
	if o == nil {
		return nil, false
	}
	return bytes.Clone(o.content), true
}

// Header returns what the request that stored an object set: its type, metadata and
// checksums.
func (s *Server) Header(key string) http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.objects[key]; o != nil {
		return o.header.Clone()
	}
	return nil
}

// Advance sets the clock of the server forward, or back. It shows in the header Date,
// and in when objects were stored since.
func (s *Server) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead += d
}

// now returns the time by the clock of the server. The caller holds mu.
func (s *Server) now() time.Time { return time.Now().Add(s.ahead) }

// OnAnswer has a function called with the method and the URI of each request, once its
// effect is there and before its answer has ended. Nil ends that.
func (s *Server) OnAnswer(answered func(method, uri string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered = answered
}

// Lose removes an object, as if the store had lost it.
func (s *Server) Lose(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, key)
}

// Age sets when an object was stored.
func (s *Server) Age(key string, modified time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.objects[key]; o != nil {
		o.modified = modified
	}
}

// Keys returns the keys of all objects in order, also of those that listings do not
// show yet.
func (s *Server) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys("", "", len(s.objects), func(*object) bool { return true })
}

// List takes the place of the method of requests that list objects.
const List = "LIST"

// Requests returns the number of requests with a method since the server started, or, if
// method is empty, of all requests but those that list objects, which clients send in the
// background.
func (s *Server) Requests(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if method != "" {
		return s.requests[method]
	}
	all := 0
	for _, n := range s.requests {
		all += n
	}
	return all - s.requests[List]
}

// Stores returns how often clients have stored an object.
func (s *Server) Stores(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stores[key]
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if r.URL.Query().Has("list-type") {
		s.requests[List]++
	} else {
		s.requests[r.Method]++
	}
	w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
	answered := s.answered
	s.mu.Unlock()
	if answered != nil {
		defer answered(r.Method, r.URL.RequestURI())
	}
	if !s.pass(w, r) {
		return
	}
	if status, code := s.authorize(r); code != "" {
		refuse(w, r, status, code)
		return
	}
	bucket, key := split(r)
	query := r.URL.Query()
	switch {
	case bucket != Bucket:
		refuse(w, r, http.StatusNotFound, "NoSuchBucket")
	case key == "" && r.Method == http.MethodGet && query.Get("list-type") == "2":
		s.list(w, r, query)
	case key == "" && r.Method == http.MethodGet && query.Has("uploads"):
		s.listUploads(w, r, query)
	case key == "" && r.Method == http.MethodHead:
		w.WriteHeader(http.StatusOK)
	case key == "":
		refuse(w, r, http.StatusNotImplemented, "NotImplemented")
	case query.Has("uploads") || query.Has("uploadId"):
		s.multipart(w, r, key, query)
	case r.Method == http.MethodPut:
		s.put(w, r, key)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		s.get(w, r, key)
	case r.Method == http.MethodDelete:
		s.Lose(key)
		w.WriteHeader(http.StatusNoContent)
	default:
		refuse(w, r, http.StatusNotImplemented, "NotImplemented")
	}
}

// split returns the bucket and the key of a request in the style of a virtual host,
// or else in that of a path.
func split(r *http.Request) (bucket, key string) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	if strings.HasPrefix(r.Host, Bucket+".") {
		return Bucket, path
	}
	bucket, key, _ = strings.Cut(path, "/")
	return bucket, key
}

// SetSecret sets the secret of the access key, without which no signed URL is valid.
func (s *Server) SetSecret(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secret = secret
}

// authorize reports the refusal of a request without a signature, of one whose signed
// URL is not valid, and of one with another access key than the one that is accepted.
func (s *Server) authorize(r *http.Request) (status int, code string) {
	query := r.URL.Query()
	credential := query.Get("X-Amz-Credential")
	if isSigned(query) {
		if status, code := s.checkSigned(r, query); code != "" {
			return status, code
		}
	} else {
		fields, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
		if !ok || !strings.Contains(fields, "Signature=") {
			return http.StatusForbidden, "AccessDenied"
		}
		_, credential, _ = strings.Cut(fields, "Credential=")
	}
	key, _, _ := strings.Cut(credential, "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults.AccessKey != "" && s.faults.AccessKey != key {
		return http.StatusForbidden, "InvalidAccessKeyId"
	}
	return 0, ""
}

// refuse answers with an error of the S3 API.
func refuse(w http.ResponseWriter, r *http.Request, status int, code string) {
	type apiError struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_ = xml.NewEncoder(w).Encode(apiError{Code: code, Message: "refused by the test"})
	}
}
