package s3test

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// upload is a multipart upload under way.
type upload struct {
	key    string
	header http.Header
	parts  map[int][]byte
	sums   map[int]string // the SHA-256 checksums with which the parts were sent
	began  time.Time
}

// MinPart is the size in bytes of the smallest part that is not the last one.
const MinPart = 5 << 20

func (s *Server) multipart(w http.ResponseWriter, r *http.Request, key string, query url.Values) {
	id := query.Get("uploadId")
	if query.Has("uploads") && r.Method == http.MethodPost {
		s.beginUpload(w, r, key)
		return
	}
	s.mu.Lock()
	u := s.uploads[id]
	s.mu.Unlock()
	if u == nil || u.key != key {
		refuse(w, r, http.StatusNotFound, "NoSuchUpload")
		return
	}
	switch r.Method {
	case http.MethodPut:
		number, err := strconv.Atoi(query.Get("partNumber"))
		if err != nil || number < 1 || number > 10_000 {
			refuse(w, r, http.StatusBadRequest, "InvalidArgument")
			return
		}
		content := read(w, r)
		if content == nil {
			return
		}
		s.mu.Lock()
		u.parts[number], u.sums[number] = content, r.Header.Get("X-Amz-Checksum-Sha256")
		s.mu.Unlock()
		w.Header().Set("ETag", (&object{content: content}).etag())
		w.WriteHeader(http.StatusOK)
	case http.MethodPost:
		s.completeUpload(w, r, id, u)
	case http.MethodDelete:
		s.mu.Lock()
		delete(s.uploads, id)
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	default:
		refuse(w, r, http.StatusNotImplemented, "NotImplemented")
	}
}

func (s *Server) beginUpload(w http.ResponseWriter, r *http.Request, key string) {
	s.mu.Lock()
	s.serial++
	id := strconv.Itoa(s.serial)
	s.uploads[id] = &upload{key: key, header: kept(r), parts: make(map[int][]byte), sums: make(map[int]string), began: s.now()}
	s.mu.Unlock()
	type begun struct {
		XMLName  xml.Name `xml:"InitiateMultipartUploadResult"`
		Bucket   string
		Key      string
		UploadID string `xml:"UploadId"`
	}
	_ = xml.NewEncoder(w).Encode(begun{Bucket: Bucket, Key: key, UploadID: id})
}

func (s *Server) completeUpload(w http.ResponseWriter, r *http.Request, id string, u *upload) {
	var asked struct {
		Parts []struct {
			PartNumber     int
			ETag           string
			ChecksumSHA256 string
		} `xml:"Part"`
	}
	if err := xml.NewDecoder(r.Body).Decode(&asked); err != nil {
		refuse(w, r, http.StatusBadRequest, "MalformedXML")
		return
	}
	content, sums := []byte{}, sha256.New()
	s.mu.Lock()
	for i, p := range asked.Parts {
		part, ok := u.parts[p.PartNumber]
		summed := u.header.Get("X-Amz-Checksum-Algorithm") == "" || p.ChecksumSHA256 != "" && p.ChecksumSHA256 == u.sums[p.PartNumber]
		if !ok || !summed || i > 0 && p.PartNumber <= asked.Parts[i-1].PartNumber {
			s.mu.Unlock()
			refuse(w, r, http.StatusBadRequest, "InvalidPart")
			return
		}
		if i < len(asked.Parts)-1 && len(part) < MinPart {
			s.mu.Unlock()
			refuse(w, r, http.StatusBadRequest, "EntityTooSmall")
			return
		}
		content = append(content, part...)
		sum, _ := base64.StdEncoding.DecodeString(u.sums[p.PartNumber])
		_, _ = sums.Write(sum)
	}
	if u.header.Get("X-Amz-Checksum-Algorithm") != "" {
		u.header.Set("X-Amz-Checksum-Sha256", fmt.Sprintf("%s-%d", base64.StdEncoding.EncodeToString(sums.Sum(nil)), len(asked.Parts)))
	}
	delete(s.uploads, id)
	s.mu.Unlock()
	s.store(u.key, content, u.header, false)
	type completed struct {
		XMLName xml.Name `xml:"CompleteMultipartUploadResult"`
		Bucket  string
		Key     string
		ETag    string
	}
	_ = xml.NewEncoder(w).Encode(completed{Bucket: Bucket, Key: u.key, ETag: (&object{content: content}).etag()})
}

// listUploads lists the uploads that are neither completed nor aborted, in the order of
// their keys and ids. Like some object stores, it refuses the id of an upload that is gone
// as the place to go on.
func (s *Server) listUploads(w http.ResponseWriter, r *http.Request, query url.Values) {
	type listedUpload struct {
		Key       string
		UploadID  string `xml:"UploadId"`
		Initiated string
	}
	var result struct {
		XMLName            xml.Name `xml:"ListMultipartUploadsResult"`
		Bucket             string
		Prefix             string
		NextKeyMarker      string
		NextUploadIDMarker string `xml:"NextUploadIdMarker"`
		IsTruncated        bool
		Upload             []listedUpload
	}
	result.Bucket, result.Prefix = Bucket, query.Get("prefix")
	key, id := query.Get("key-marker"), query.Get("upload-id-marker")
	s.mu.Lock()
	page, gone := s.page, id != "" && s.uploads[id] == nil
	for uploadID, u := range s.uploads {
		after := u.key > key || u.key == key && id != "" && uploadID > id
		if strings.HasPrefix(u.key, result.Prefix) && after {
			result.Upload = append(result.Upload, listedUpload{u.key, uploadID, u.began.UTC().Format("2006-01-02T15:04:05.000Z")})
		}
	}
	s.mu.Unlock()
	if gone {
		refuse(w, r, http.StatusBadRequest, "InvalidArgument")
		return
	}
	slices.SortFunc(result.Upload, func(a, b listedUpload) int {
		return cmp.Or(strings.Compare(a.Key, b.Key), strings.Compare(a.UploadID, b.UploadID))
	})
	if len(result.Upload) > page {
		result.Upload, result.IsTruncated = result.Upload[:page], true
		last := result.Upload[page-1]
		result.NextKeyMarker, result.NextUploadIDMarker = last.Key, last.UploadID
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(result)
}

// Uploads returns the number of multipart uploads that are neither completed nor
// aborted.
func (s *Server) Uploads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.uploads)
}
