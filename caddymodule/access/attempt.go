package access

import (
	"errors"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// attempt is a login that the throttle has admitted.
type attempt struct {
	throttle *Throttle

	addressKnown bool // an account has logged in from the address before
	pairKnown    bool // and with this name in this spelling
	repeated     bool // the login was right when it was last checked
	guessable    bool // a person may have chosen the password

	subnet  string // the part of the address that limits are counted by
	address sum    // of the subnet
	account sum    // of the name in any spelling
	login   sum    // of the name and the password
	pair    sum    // of the subnet and the name in this spelling

	// The buckets in which the login is in flight; nil where it is not.
	addressBucket, accountBucket *bucket
}

// admit reports whether a login may be checked. If so, the attempt must be told
// the outcome with settle, and be released when the check has ended. The address
// is the client's, as Caddy determined it. A login is guessable if a person may
// have chosen its password.
func (t *Throttle) admit(address, name, password string, guessable bool) (*attempt, *Throttled) {
	a := &attempt{throttle: t, guessable: guessable, subnet: subnetOf(address)}
	a.address, a.account = t.sum("address", a.subnet), t.sum("account", looseName(name))
	// These use the exact name: another spelling may be another account, in
	// another directory.
	a.login, a.pair = t.sum("login", name, password), t.sum("pair", a.subnet, name)
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, a.repeated = t.right.Get(a.login); a.repeated {
		a.addressKnown, a.pairKnown = true, true
		return a, nil
	}
	_, a.addressKnown = t.known.Get(a.address)
	_, a.pairKnown = t.known.Get(a.pair)
	from := t.addressBucket(a.address)
	if e := from.check(t.now(), a.login, maxAddressInFlight, "too many wrong logins from your address"); e != nil {
		return nil, e
	}
	if a.guessable && !a.pairKnown {
		to := t.accountBucket(a.account)
		if e := to.check(t.now(), a.login, accountBurst, "too many wrong logins to this account"); e != nil {
			return nil, e
		}
		to.begin(a.login)
		a.accountBucket = to
	}
	from.begin(a.login)
	a.addressBucket = from
	return a, nil
}

// settle charges the outcome of the check.
func (a *attempt) settle(who Caller, err error) Outcome {
	o := Outcome{Caller: who, Err: err, Repeated: a.repeated}
	if hidden := (*hiddenRefusal)(nil); errors.As(err, &hidden) {
		o.HiddenBy = hidden.cause
	}
	switch {
	case err == nil:
		a.accepted()
	// An address that has logged in to the account knows that it exists, so its
	// guesses are charged even if the refusal is hidden.
	case directory.IsRefusal(err) && (o.HiddenBy == nil || a.pairKnown):
		a.refused()
	default:
		a.undecided()
	}
	return o
}

// accepted remembers a right login.
func (a *attempt) accepted() {
	t := a.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	t.right.Add(a.login, struct{}{})
	t.known.Add(a.address, struct{}{})
	if a.guessable { // a token is accepted with any name
		t.known.Add(a.pair, struct{}{})
	}
	t.wrong.Remove(a.login)
}

// refused charges a wrong login.
func (a *attempt) refused() {
	t := a.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	t.right.Remove(a.login)
	price := a.price()
	t.addressBucket(a.address).charge(t.now(), price)
	a.chargeAccount(price)
}

// undecided charges a login that could not be checked, or whose refusal is
// hidden. It may be right, so it is not charged to an address with an earlier
// success, nor at all if the address has logged in to this account. All others
// pay, whether or not the login is known to be wrong: otherwise an account that
// is refused after some guesses would be one that exists.
func (a *attempt) undecided() {
	if a.pairKnown {
		return
	}
	t := a.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	price := a.price()
	a.chargeAccount(price)
	if !a.addressKnown {
		t.addressBucket(a.address).charge(t.now(), price)
	}
}

// price returns what a login that is not right costs, in units of a repetition.
// It remembers the login as wrong.
func (a *attempt) price() int {
	_, again := a.throttle.wrong.Get(a.login)
	a.throttle.wrong.Add(a.login, struct{}{})
	if again {
		return 1
	}
	return repeatsPerGuess
}

func (a *attempt) chargeAccount(price int) {
	if t := a.throttle; a.guessable {
		t.accountBucket(a.account).charge(t.now(), price)
	}
}

// hasEqual reports whether the same login from the same address is being checked.
func (a *attempt) hasEqual() bool {
	a.throttle.mu.Lock()
	defer a.throttle.mu.Unlock()
	return a.addressBucket != nil && a.addressBucket.inFlight[a.login] > 1
}

// release ends the attempt. It must be called once the outcome is settled.
func (a *attempt) release() {
	a.throttle.mu.Lock()
	defer a.throttle.mu.Unlock()
	if a.addressBucket != nil {
		a.addressBucket.end(a.login)
	}
	if a.accountBucket != nil {
		a.accountBucket.end(a.login)
	}
	a.addressBucket, a.accountBucket = nil, nil
}
