// Package storage has the places in which a cache can be: the guest modules of
// the namespace http.dependency_proxy.storage. A storage holds blobs by their
// digests, and records of which repository may be served which of them.
//
// [Filesystem] is the default. Another storage is a type that implements
// [Storage] and registers itself with Caddy; the conformance suites in
// blobcache/store/storetest tell whether what it opens is right.
package storage
