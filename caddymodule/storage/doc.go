// Package storage has the modules of the namespace http.dependency_proxy.storage,
// which keep the cached content. A storage has blobs by their digests, and records
// of the repositories that may be served each blob.
//
// [Filesystem] is the default. Other storages implement [Storage] and register
// themselves with Caddy. The suites in blobcache/store/storetest test what a storage
// opens.
package storage
