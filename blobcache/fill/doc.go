// Package fill downloads content that a cache does not have, once for all who
// request it.
//
// A [Table] holds the running fills. [Table.Get] returns a [Follower] of the fill
// that downloads the requested content and starts it if there is none. A fill
// belongs to an endpoint and a digest and outlives the request that started it. It
// asks the source for ranges through several workers if the content is large,
// resumes where the source breaks off, writes to a spool, and hashes the content
// in order. Followers read the spool from any offset; they get the last byte when
// the digest matches. Then the fill commits the spool to the store.
//
// [Request.Peers] and [Request.Replicas], such as other processes and a bucket, are asked
// before the source. If one of them fails, a fill continues with the next one, and at last
// with the source. What they send is verified like what the source sends.
//
// A request follows the fill of another scope only if its [Claim] lets it have the
// content. Without room, or if the spool fails, requests go on with bytes from the
// source, under the same rule for the last byte. [SourceLimits] bound what slow or
// hostile sources take, and a [Room] what fills take of the disk.
//
// The name of a file begins with the stage of a fill that it belongs to:
//
//	table, request, claim   a request finds its fill, or starts one
//	fill                    the run of one fill: the workers that fetch its ranges,
//	                        its end when nobody reads it, its trace
//	source                  where workers read: from replicas, and from the source,
//	                        whose transfers are resumed, measured and limited
//	spool                   where workers write: the parts of the file, the room on
//	                        the disk, the chunks in memory, and the hash
//	follower                how a request reads the spool, or the source if there is
//	                        no spool
package fill
