package access

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

// What wrong logins cost. An address and an account have a bucket each, of
// which every wrong login takes one; see [throttle].
const (
	addressBurst = 30
	addressEvery = 10 * time.Second
	accountBurst = 20
	accountEvery = time.Minute

	// repeats is how many times the same wrong login may be tried at the price
	// of one guess: it tells nothing new, and is a CI with an old secret.
	repeats = 10

	// addressFlights is how many different logins an address may have checked
	// at once, which is how far beyond its bucket it can get.
	addressFlights = 64

	// remembered is how many buckets, logins and addresses are remembered of
	// each kind, at some 200 bytes.
	remembered = 16384
)

// Throttle slows down who guesses passwords, and nobody else. It sits in front
// of all directories.
//
// Wrong logins empty the bucket of the address that they come from, and that
// of the account that they try. From an address whose bucket is empty no login
// is checked, but those that are remembered as right: a wrong secret in one CI
// job does not lock out the office that shares its address. For an account
// whose bucket is empty strangers are refused; addresses that have logged in to
// it before go on, so nobody can lock its owner out. Accounts that do not exist
// have a bucket like others, and all ways to write a name share one. Tokens of a
// known shape count against the address alone: nobody guesses these, and all CI
// jobs send them with one name.
//
// It remembers keyed digests, no names and no passwords, and is bounded: what
// was used longest ago is forgotten, to the benefit of whoever tries.
type Throttle struct {
	key   [32]byte
	now   func() time.Time
	times Times

	// Each holds one for each check under way; see [attempt.beginCheck].
	strangers, bearers, friends, equals chan struct{}

	mu        sync.Mutex
	addresses *simplelru.LRU[sum, *bucket]
	accounts  *simplelru.LRU[sum, *bucket]
	right     *simplelru.LRU[sum, struct{}] // name and password, as they were right
	wrong     *simplelru.LRU[sum, struct{}] // the same, as they were wrong
	homes     *simplelru.LRU[sum, struct{}] // addresses of right logins, alone and with the name
}

// sum is a keyed digest.
type sum [sha256.Size]byte

// bucket counts the wrong logins of one address or account, in units of
// one repeat. It may owe: logins under way are not yet counted.
type bucket struct {
	limiter *rate.Limiter
	flying  map[sum]int // the different logins under way
}

// NewThrottle returns a throttle that answers logins at the given times, and lets
// so many be checked at once of each kind; 0 is 1,024.
func NewThrottle(times Times, checks int) *Throttle {
	t := &Throttle{now: time.Now, times: times}
	for _, places := range []*chan struct{}{&t.strangers, &t.bearers, &t.friends} {
		*places = make(chan struct{}, cmp.Or(checks, maxChecks))
	}
	t.equals = make(chan struct{}, maxEqual)
	_, _ = rand.Read(t.key[:])
	t.addresses, t.accounts = newMemory[*bucket](), newMemory[*bucket]()
	t.right, t.wrong, t.homes = newMemory[struct{}](), newMemory[struct{}](), newMemory[struct{}]()
	return t
}

func newMemory[V any]() *simplelru.LRU[sum, V] {
	memory, err := simplelru.NewLRU[sum, V](remembered, nil)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return memory
}

// Checking returns the number of logins that are being checked.
func (t *Throttle) Checking() int {
	return len(t.strangers) + len(t.bearers) + len(t.friends) + len(t.equals)
}

// Throttled is why a login is not checked, and for how long that will be so.
type Throttled struct {
	Reason string
	Wait   time.Duration
}

func (e *Throttled) Error() string { return fmt.Sprintf("%s; for %s", e.Reason, e.Wait) }

// attempt is a login that may be checked.
type attempt struct {
	*Throttle
	friendly bool // somebody has logged in from this address before
	known    bool // with this name, as it is written now
	repeated bool // the login was right when it was last checked

	subnet               string // what counts of the address
	address, login, home sum
	account              sum
	guessable            bool
	flights              [2]*bucket
}

// admit says whether a login may be checked; if so, the attempt must be
// released when the check has ended, and told what came of it. The address is as
// Caddy determined it; guessable is whether people may have chosen the password.
func (t *Throttle) admit(address, name, password string, guessable bool) (*attempt, *Throttled) {
	a := &attempt{Throttle: t, guessable: guessable, subnet: subnetOf(address)}
	a.address, a.account = t.sum("address", a.subnet), t.sum("account", looseName(name))
	// Another spelling may be somebody else's, at another directory.
	a.login, a.home = t.sum("login", name, password), t.sum("home", a.subnet, name)
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, a.repeated = t.right.Get(a.login); a.repeated {
		a.friendly, a.known = true, true
		return a, nil
	}
	_, a.friendly = t.homes.Get(a.address)
	_, a.known = t.homes.Get(a.home)
	from := bucketOf(t.addresses, a.address, addressEvery, addressBurst)
	if e := from.check(t.now(), a.login, addressFlights, "too many wrong logins from your address"); e != nil {
		return nil, e
	}
	a.fly(0, from)
	if !a.guessable || a.known {
		return a, nil
	}
	to := bucketOf(t.accounts, a.account, accountEvery, accountBurst)
	if e := to.check(t.now(), a.login, accountBurst, "too many wrong logins to this account"); e != nil {
		a.land()
		return nil, e
	}
	a.fly(1, to)
	return a, nil
}

// accepted remembers a right login.
func (a *attempt) accepted() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.right.Add(a.login, struct{}{})
	a.homes.Add(a.address, struct{}{})
	if a.guessable { // tokens come with any name
		a.homes.Add(a.home, struct{}{})
	}
	a.wrong.Remove(a.login)
}

// refused charges a wrong login.
func (a *attempt) refused() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.right.Remove(a.login)
	price := a.price()
	bucketOf(a.addresses, a.address, addressEvery, addressBurst).limiter.ReserveN(a.now(), price)
	a.chargeAccount(price)
}

// undecided charges a login of which the client is not told whether it is wrong,
// since some directory cannot tell now. It may be right, so neither an address
// pays that others have logged in from, nor an account that this one has; but
// strangers do, whether or not it is known to be wrong: else the account that is
// refused after some guesses would be one that exists.
func (a *attempt) undecided() {
	if a.known {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	price := a.price()
	a.chargeAccount(price)
	if !a.friendly {
		bucketOf(a.addresses, a.address, addressEvery, addressBurst).limiter.ReserveN(a.now(), price)
	}
}

// price is what a login costs that is not right, in units of a repeat.
func (a *attempt) price() int {
	_, again := a.wrong.Get(a.login)
	a.wrong.Add(a.login, struct{}{})
	if again {
		return 1
	}
	return repeats
}

func (a *attempt) chargeAccount(price int) {
	if a.guessable {
		bucketOf(a.accounts, a.account, accountEvery, accountBurst).limiter.ReserveN(a.now(), price)
	}
}

// release ends the attempt.
func (a *attempt) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.land()
}

func (a *attempt) fly(i int, b *bucket) {
	b.flying[a.login]++
	a.flights[i] = b
}

func (a *attempt) land() {
	for i, b := range a.flights {
		if b == nil {
			continue
		}
		if b.flying[a.login]--; b.flying[a.login] == 0 {
			delete(b.flying, a.login)
		}
		a.flights[i] = nil
	}
}

func bucketOf(buckets *simplelru.LRU[sum, *bucket], key sum, every time.Duration, burst int) *bucket {
	b, ok := buckets.Get(key)
	if !ok {
		b = &bucket{rate.NewLimiter(rate.Every(every/repeats), burst*repeats), make(map[sum]int)}
		buckets.Add(key, b)
	}
	return b
}

// check says whether there is enough left for one more wrong login.
func (b *bucket) check(now time.Time, login sum, flights int, reason string) *Throttled {
	missing := (repeats - b.limiter.TokensAt(now)) / float64(b.limiter.Limit())
	if wait := time.Duration(missing * float64(time.Second)); wait > time.Millisecond { // less is a rounding error
		return &Throttled{reason, wait}
	}
	if b.flying[login] == 0 && len(b.flying) >= flights {
		return &Throttled{reason, time.Second}
	}
	return nil
}

// sum digests texts such that no other texts have the same sum.
func (t *Throttle) sum(texts ...string) (sum sum) {
	mac := hmac.New(sha256.New, t.key[:])
	for _, text := range texts {
		_ = binary.Write(mac, binary.BigEndian, uint64(len(text)))
		mac.Write([]byte(text))
	}
	mac.Sum(sum[:0])
	return sum
}

// subnetOf is what of an address tells one client from another: all of IPv4,
// and the half of IPv6 that a site is given.
func subnetOf(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return address // a Unix socket: all its clients are one
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	return netip.PrefixFrom(ip, 64).Masked().String()
}
