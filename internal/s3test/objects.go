package s3test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// read reads the content of a request and compares it with the checksums that the
// request announces. It returns nil after it has refused the request.
func read(w http.ResponseWriter, r *http.Request) []byte {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	sum := sha256.Sum256(content)
	switch signed := r.Header.Get("X-Amz-Content-Sha256"); {
	case strings.HasPrefix(signed, "STREAMING-"):
		refuse(w, r, http.StatusNotImplemented, "NotImplemented") // no client of ours needs it
		return nil
	case signed != "UNSIGNED-PAYLOAD" && signed != hex.EncodeToString(sum[:]):
		refuse(w, r, http.StatusBadRequest, "XAmzContentSHA256Mismatch")
		return nil
	}
	if announced := r.Header.Get("X-Amz-Checksum-Sha256"); announced != "" && announced != base64.StdEncoding.EncodeToString(sum[:]) {
		refuse(w, r, http.StatusBadRequest, "BadDigest")
		return nil
	}
	return append([]byte{}, content...)
}

// kept returns the headers of a request that are stored with its object.
func kept(r *http.Request) http.Header {
	header := make(http.Header)
	for name, values := range r.Header {
		if name == "Content-Type" || strings.HasPrefix(name, "X-Amz-Meta-") || strings.HasPrefix(name, "X-Amz-Checksum-") {
			header[name] = values
		}
	}
	return header
}

func (s *Server) put(w http.ResponseWriter, r *http.Request, key string) {
	content := read(w, r)
	if content == nil {
		return
	}
	if !s.store(key, content, kept(r), r.Header.Get("If-None-Match") == "*") {
		refuse(w, r, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	}
	w.Header().Set("ETag", (&object{content: content}).etag())
	w.WriteHeader(http.StatusOK)
}

// store stores an object. It reports false if the object exists and must not.
func (s *Server) store(key string, content []byte, header http.Header, onlyNew bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[key] != nil && onlyNew {
		return false
	}
	s.stores[key]++
	s.set(key, &object{content: content, modified: s.now(), header: header, unlisted: s.faults.ListLater})
	return true
}

func (s *Server) get(w http.ResponseWriter, r *http.Request, key string) {
	s.mu.Lock()
	o, faults, freed := s.objects[key], s.faults, s.freed
	var modified time.Time
	if o != nil {
		modified = o.modified
	}
	s.mu.Unlock()
	if o == nil {
		refuse(w, r, http.StatusNotFound, "NoSuchKey")
		return
	}
	maps.Copy(w.Header(), o.header)
	if r.Header.Get("X-Amz-Checksum-Mode") != "ENABLED" {
		w.Header().Del("X-Amz-Checksum-Sha256")
	}
	w.Header().Set("ETag", o.etag())
	content := o.content
	if faults.Wrong && len(content) > 0 {
		content = slices.Clone(content)
		content[len(content)/2] ^= 1
	}
	if r.Method == http.MethodGet && (faults.Cut || faults.StalledBody) {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.Header().Set("Last-Modified", modified.UTC().Format(http.TimeFormat))
		_, _ = w.Write(content[:len(content)/2])
		_ = http.NewResponseController(w).Flush()
		if faults.StalledBody {
			wait(r, freed)
		}
		panic(http.ErrAbortHandler)
	}
	http.ServeContent(w, r, "", modified, bytes.NewReader(content))
}

// listed is the answer of ListObjectsV2.
type listed struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	Name                  string
	Prefix                string
	KeyCount              int
	MaxKeys               int
	IsTruncated           bool
	EncodingType          string `xml:",omitempty"`
	NextContinuationToken string `xml:",omitempty"`
	Contents              []listedObject
}

type listedObject struct {
	Key          string
	LastModified string
	ETag         string
	Size         int
	StorageClass string
}

// maxKeys is the number of objects on a page, unless the request asks for fewer or
// [Server.SetPage] has been called.
const maxKeys = 1000

// SetPage sets the number of objects or uploads on a page of a listing, unless the request
// asks for fewer.
func (s *Server) SetPage(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.page = n
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, query url.Values) {
	s.mu.Lock()
	page := s.page
	s.mu.Unlock()
	if n, err := strconv.Atoi(query.Get("max-keys")); err == nil && n < page {
		page = n
	}
	after := query.Get("start-after")
	if token := query.Get("continuation-token"); token != "" {
		last, err := base64.StdEncoding.DecodeString(token)
		if err != nil {
			refuse(w, r, http.StatusBadRequest, "InvalidArgument")
			return
		}
		after = max(after, string(last))
	}
	result := listed{Name: Bucket, Prefix: query.Get("prefix"), MaxKeys: page, EncodingType: query.Get("encoding-type")}
	s.mu.Lock()
	keys := s.keys(result.Prefix, after, page+1, func(o *object) bool { return !o.unlisted })
	if len(keys) > page {
		keys = keys[:page]
		result.IsTruncated, result.NextContinuationToken = true, base64.StdEncoding.EncodeToString([]byte(keys[page-1]))
	}
	for _, key := range keys {
		o := s.objects[key]
		name := key
		if result.EncodingType == "url" {
			name = url.QueryEscape(key)
		}
		result.Contents = append(result.Contents, listedObject{
			Key: name, LastModified: o.modified.UTC().Format("2006-01-02T15:04:05.000Z"), ETag: o.etag(), Size: len(o.content), StorageClass: "STANDARD",
		})
	}
	s.mu.Unlock()
	result.KeyCount = len(result.Contents)
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(result)
}

// keys returns the first keys, in order and at most limit, that begin with prefix and come
// after another one.
func (s *Server) keys(prefix, after string, limit int, include func(*object) bool) []string {
	if s.sorted == nil {
		s.sorted = slices.Sorted(maps.Keys(s.objects))
	}
	var keys []string
	from, _ := slices.BinarySearch(s.sorted, max(prefix, after))
	for _, key := range s.sorted[from:] {
		if !strings.HasPrefix(key, prefix) || len(keys) == limit {
			break
		}
		// An object that is gone may still be in the list.
		if o := s.objects[key]; o != nil && key > after && include(o) {
			keys = append(keys, key)
		}
	}
	return keys
}

// set stores an object. The caller holds mu.
func (s *Server) set(key string, o *object) {
	if s.objects[key] == nil {
		s.sorted = nil
	}
	s.objects[key] = o
}
