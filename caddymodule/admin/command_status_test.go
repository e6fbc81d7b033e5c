package admin

import (
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
)

// at is a time in the texts below.
var at = time.Date(2026, 11, 27, 16, 5, 0, 0, time.Local)

// bucketStatus is a cache with a bucket in which everything fails that can.
func bucketStatus() CacheStatus {
	return CacheStatus{
		Storage: "s3 https://s3.example.com/images/dependency_proxy/ with filesystem /var/cache", Bytes: 50 << 30, Blobs: 1, Limit: 200 << 30,
		Groups: map[string]GroupUsage{"acme": {Bytes: 40 << 30, Blobs: 1200, Quota: 100 << 30, Measured: at}},
		Fills:  []FillStatus{{Digest: "sha256:ab", Size: 1 << 20, Written: 1 << 19, Readers: 2, Since: at}},
		Remote: &storage.RemoteStatus{
			Name: "s3 s3.example.com/images/dependency_proxy/", Blobs: 3, Records: 1, More: true, Oldest: at,
			FailedBlobs: 1, ObjectError: "upload sha256:cd: the bucket answered 403 AccessDenied",
			ReadError: "GET s3.example.com: connection\nrefused", ReadsFail: at, WriteError: "the bucket answered 507", WritesFail: at,
		},
	}
}

const cacheText = `s3 https://s3.example.com/images/dependency_proxy/ with filesystem /var/cache

GROUP  SIZE    QUOTA    BLOBS  MEASURED
acme   40 GiB  100 GiB  1200   2026-11-27 16:05:00

DOWNLOAD   SIZE     RECEIVED  READERS  SINCE
sha256:ab  1.0 MiB  512 KiB   2        2026-11-27 16:05:00

local        [#####               ] 50 GiB of 200 GiB in 1 blob
bucket       s3 s3.example.com/images/dependency_proxy/
to upload    3 blobs and 1 record and more, the first since 2026-11-27 16:05:00
refused      1 blob and 0 records of them: upload sha256:cd: the bucket answered 403 AccessDenied
reads fail   since 2026-11-27 16:05:00: GET s3.example.com: connection refused
writes fail  since 2026-11-27 16:05:00: the bucket answered 507
`

const quietText = `
local      50 GiB in 1 blob
bucket     s3 s3.example.com/images/dependency_proxy/
to upload  nothing
`

// TestCacheListPrint: the text has both tiers and what is to be uploaded.
func TestCacheListPrint(t *testing.T) {
	var text strings.Builder
	CacheList{[]CacheStatus{bucketStatus()}}.print(&text)
	if text.String() != cacheText {
		t.Errorf("got\n%s\nwant\n%s", text.String(), cacheText)
	}
	text.Reset()
	quiet := bucketStatus()
	quiet.Limit, quiet.Remote = 0, &storage.RemoteStatus{Name: quiet.Remote.Name}
	CacheList{[]CacheStatus{quiet}}.print(&text)
	if !strings.HasSuffix(text.String(), quietText) {
		t.Errorf("got\n%s\nwant it to end with\n%s", text.String(), quietText)
	}
	text.Reset()
	quiet.Remote = nil
	CacheList{[]CacheStatus{quiet}}.print(&text)
	if strings.Contains(text.String(), "upload") {
		t.Errorf("got\n%s\nwant nothing about uploads", text.String())
	}
}

const statusText = `storage                             s3 https://s3.example.com/images/dependency_proxy/ with filesystem /var/cache
stored                              [#####               ] 50 GiB of 200 GiB in 1 blob
bucket                              s3 s3.example.com/images/dependency_proxy/
to upload                           3 blobs and 1 record and more, the first since 2026-11-27 16:05:00
refused                             1 blob and 0 records of them: upload sha256:cd: the bucket answered 403 AccessDenied
`

// TestStatusPrint: the text about all of the proxy has the same lines.
func TestStatusPrint(t *testing.T) {
	var text strings.Builder
	Status{Requests: RequestStatus{Since: at}, Caches: []CacheStatus{bucketStatus()}}.print(&text)
	squeeze := func(text string) string { return strings.Join(strings.Fields(text), " ") }
	if !strings.HasPrefix(squeeze(text.String()), squeeze(statusText)) {
		t.Errorf("got\n%s\nwant it to begin with\n%s", text.String(), statusText)
	}
}
