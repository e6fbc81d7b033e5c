package access

import (
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// An address may fail addressBurst times at once and then once every
	// addressEvery, an account accountBurst times and then once every
	// accountEvery.
	addressBurst = 30
	addressEvery = 10 * time.Second
	accountBurst = 20
	accountEvery = time.Minute

	// repeatsPerGuess is how often the same wrong login may be repeated for the
	// price of one guess. A repetition tells an attacker nothing new; it is
	// usually a CI job with an old secret.
	repeatsPerGuess = 10

	// maxAddressInFlight is how many different logins from an address are checked
	// at once. An address can exceed its bucket by that many.
	maxAddressInFlight = 64

	// remembered is the number of buckets, logins and addresses that are
	// remembered, of each kind, at about 200 bytes each.
	remembered = 16384
)

// Throttle limits failed logins per client address and per account, before any
// directory is asked.
//
// A failed login is charged to the bucket of its address and to that of its
// account. From an address with an empty bucket, only logins that are remembered
// as right are checked: a wrong secret in one CI job does not lock out the office
// that shares its address. To an account with an empty bucket, only addresses
// that have logged in to it before can log in: nobody can lock out the owner.
// Accounts that do not exist have buckets as well, and all spellings of a name
// share one. Logins with a token of a known form are charged to the address
// alone, because tokens cannot be guessed and all CI jobs send theirs with the
// same name.
//
// The throttle remembers keyed digests, not names or passwords. Its memory is
// bounded. When it is full, the entry that was unused for the longest time is
// forgotten, which benefits the client.
type Throttle struct {
	key   [32]byte
	now   func() time.Time
	times Times
	slots slots

	mu        sync.Mutex
	addresses *simplelru.LRU[sum, *bucket]
	accounts  *simplelru.LRU[sum, *bucket]
	right     *simplelru.LRU[sum, struct{}] // logins that were right when last checked
	wrong     *simplelru.LRU[sum, struct{}] // logins that were wrong
	known     *simplelru.LRU[sum, struct{}] // addresses of right logins, alone and with the name
}

// NewThrottle returns a throttle for gates that answer logins at the given
// times. As many logins of each class are checked at once: those from addresses
// with an earlier success, those from other addresses, and those with access
// tokens of the site. 0 means 1,024.
func NewThrottle(times Times, checks int) *Throttle {
	t := &Throttle{now: time.Now, times: times, slots: newSlots(checks)}
	_, _ = rand.Read(t.key[:])
	t.addresses, t.accounts = newMemory[*bucket](), newMemory[*bucket]()
	t.right, t.wrong, t.known = newMemory[struct{}](), newMemory[struct{}](), newMemory[struct{}]()
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
func (t *Throttle) Checking() int { return t.slots.taken() }

// Throttled is the error of a login that is not checked, because too many logins
// from its address or to its account have failed.
type Throttled struct {
	// Reason is a text for the client and the log.
	Reason string

	// Wait is the time after which the login would be checked, if no other login
	// fails until then.
	Wait time.Duration
}

// Error implements error.
func (e *Throttled) Error() string { return fmt.Sprintf("%s; for %s", e.Reason, e.Wait) }
