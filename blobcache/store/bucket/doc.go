// Package bucket keeps a copy of stored content and records in an object store with
// the S3 API, so that several nodes share them and a new node begins with them.
//
// [Store] is a [store.Blobs] and a [store.Records] whose first tier is a
// [store.FileStore]: what it is asked to store is on the local disk when the call
// returns, and is uploaded later. The bucket is never a part of a call that stores
// something, so no call fails or waits because of it. Content is read from the bucket
// by [Store.Fetch] alone, as from any source of a download, which verifies it.
//
// The objects are
//
//	PREFIX blobs/ALGORITHM/ab/abcd…       content, by its digest
//	PREFIX links/…, refs/…, deliveries/…  records of the index, by their keys
//	PREFIX purges/…                       records of what was purged in the last week
//	PREFIX verified/ALGORITHM/ab/abcd…    records of uploads for which there are signed URLs
//	PREFIX used/DAY/NODE                  digests of what a node has used on a day
//	PREFIX used/merged/NAME               when content was last used, from older used/DAY/NODE
//	PREFIX swept                          empty; its time is that of the last sweep
//
// A record is written with an authentication code under a key that the nodes share.
// One without it, or with a wrong one, is ignored: the bucket alone cannot grant
// anything. Whoever may write to the bucket can bring back an earlier value of a
// record, or remove it. What is in used/ and swept has no code: it only decides when
// content is removed.
package bucket
