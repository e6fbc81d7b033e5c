// Package blobcache keeps immutable content by its digest and fills itself.
//
// A request for a digest is answered from the [Blobs] when the content is
// there. When it is not, the first request starts one detached fill: it
// fetches the content once, in several ranges at a time if it is large, spools
// it to a temporary file and hashes it as it comes. Every request for the same
// endpoint that arrives meanwhile reads the same spool at its own pace and from
// its own offset, so nobody waits for the whole and nobody slows the others down;
// the last byte is held back from all of them until the digest matches. Then the
// file is synced and renamed into the store. A range that ends before the last
// byte is not held back: until the fill has ended, it is only what the endpoint sent.
//
// A [Blobs] is kept within [Limits] by [Cache.Keep]: what was least recently
// asked for goes first, and what it names goes with it, so that no image is left
// half. [Quotas] do the same for owners, by their links. What the disk has
// damaged is found by its size, its first byte, or a [Cache.Scrub], dropped and
// fetched again.
//
// The package knows digests, not registries: where bytes come from is a
// [Fetch], and who may read them is the decision of a [Claim], kept in the
// [Index] as links from a scope to the digests it is known to contain, and as
// deliveries, which record what a source has delivered. A scope is never served
// stored content that its source has not delivered. Trouble with the disk never fails a
// request that the source can answer.
package blobcache
