// Package blobcache stores immutable content by its digest and downloads what
// is missing.
//
// A request for stored content is answered from a [store.Blobs]. Otherwise the
// first request starts one detached fill: it downloads the content once, in
// several ranges at a time if it is large, writes it to a temporary file, the
// spool, and hashes it on the way. Further requests for the same endpoint read
// the same spool, each at its own speed and from its own offset: none of them
// waits for the whole content, and a slow one does not slow down the others.
// The last byte is held back from all of them until the digest matches. Then
// the file is synced and renamed into the store. A range that ends before the
// last byte is not held back: until the fill has ended, it is only what the
// endpoint sent.
//
// [Cache.Keep] keeps the stored content within [Limits]. The least recently
// requested content goes first, together with what it names, so that no image
// is left incomplete. [Quotas] does the same for owners, by their links.
// Damaged content is found by its size, by its first byte, by package store, or
// by [Cache.Scrub]; it is removed and downloaded again.
//
// The package knows digests and no registries. A [fill.Fetch] gets bytes from a
// source. A [fill.Claim] decides who may read them, as a rule by an [index.Index]. A
// scope is never served stored content that its source has not delivered. A
// storage error never fails a request that the source can answer.
package blobcache
