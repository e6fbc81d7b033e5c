package access

import (
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

// bucket counts the failed logins of one address or account, in units of a
// repetition. Logins are charged when their check has ended, so several that are
// in flight can overdraw it.
type bucket struct {
	limiter  *rate.Limiter
	inFlight map[sum]int // the logins that are being checked, and how often each
}

func (t *Throttle) addressBucket(key sum) *bucket {
	return bucketOf(t.addresses, key, addressEvery, addressBurst)
}

func (t *Throttle) accountBucket(key sum) *bucket {
	return bucketOf(t.accounts, key, accountEvery, accountBurst)
}

// bucketOf returns the bucket of a key, which is full if it is not remembered.
func bucketOf(buckets *simplelru.LRU[sum, *bucket], key sum, every time.Duration, burst int) *bucket {
	b, ok := buckets.Get(key)
	if !ok {
		b = &bucket{rate.NewLimiter(rate.Every(every/repeatsPerGuess), burst*repeatsPerGuess), make(map[sum]int)}
		buckets.Add(key, b)
	}
	return b
}

// check returns an error with the given reason unless the bucket has room for
// one more guess, and no more than maxInFlight different logins would be in
// flight.
func (b *bucket) check(now time.Time, login sum, maxInFlight int, reason string) *Throttled {
	missing := (repeatsPerGuess - b.limiter.TokensAt(now)) / float64(b.limiter.Limit())
	if wait := time.Duration(missing * float64(time.Second)); wait > time.Millisecond { // less is a rounding error
		return &Throttled{reason, wait}
	}
	if b.inFlight[login] == 0 && len(b.inFlight) >= maxInFlight {
		return &Throttled{reason, time.Second}
	}
	return nil
}

// charge takes the price from the bucket, which may become negative.
func (b *bucket) charge(now time.Time, price int) { b.limiter.ReserveN(now, price) }

// begin adds a login to those in flight, and end removes it.
func (b *bucket) begin(login sum) { b.inFlight[login]++ }

func (b *bucket) end(login sum) {
	if b.inFlight[login]--; b.inFlight[login] == 0 {
		delete(b.inFlight, login)
	}
}
