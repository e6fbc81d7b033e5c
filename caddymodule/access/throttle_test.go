package access

import (
	"fmt"
	"testing"
	"time"
)

// TestThrottleAddressBucket checks that guesses from an address are refused when
// its bucket is empty, whatever the account, except for logins that were right
// before.
func TestThrottleAddressBucket(t *testing.T) {
	tt := newThrottleTest(t)
	tt.expect("a first right login", tt.login("192.0.2.1", "alice", "right"), true)
	admitted := 0
	for i := range 100 {
		admitted += tt.guess(1, "192.0.2.1", fmt.Sprint("user", i))
	}
	tt.expect("guesses", admitted, addressBurst)
	tt.expect("a right login that is not remembered", tt.login("192.0.2.1", "bob", "right too"), false)
	tt.expect("a remembered login", tt.login("192.0.2.1", "alice", "right"), true)
	tt.expect("a remembered login from another address", tt.login("192.0.2.9", "alice", "right"), true)
	tt.expect("a login from another address", tt.login("192.0.2.2", "bob", "right too"), true)
	tt.expect("a login that another address has made", tt.login("192.0.2.1", "bob", "right too"), true)

	tt.clock = tt.clock.Add(addressEvery)
	tt.expect("guesses after a while", tt.guess(5, "192.0.2.1", "carol"), 1)
	tt.clock = tt.clock.Add(24 * time.Hour)
	tt.expect("guesses after a day", tt.guess(100, "192.0.2.1", "dave"), accountBurst) // the smaller bucket
	tt.expect("guesses at another account", tt.guess(100, "192.0.2.1", "erin"), addressBurst-accountBurst)
}

// TestThrottleRepeats checks that repeating a wrong login costs less than a guess,
// but is not free.
func TestThrottleRepeats(t *testing.T) {
	tt := newThrottleTest(t)
	admitted := 0
	for range 1000 {
		if tt.login("192.0.2.1", "alice", "old") {
			admitted++
		}
	}
	tt.expect("repeated logins", admitted, (accountBurst-2)*repeatsPerGuess+2)
	for range 1000 { // one each second
		tt.clock = tt.clock.Add(time.Second)
		tt.login("192.0.2.2", "ci", "old")
	}
	tt.expect("a login from the address of a job with an old password", tt.login("192.0.2.2", "bob", "right"), true)
}

// TestThrottleForgetsRightLogin checks that a login which was right is throttled
// once it is wrong.
func TestThrottleForgetsRightLogin(t *testing.T) {
	tt := newThrottleTest(t)
	login := func() *attempt {
		a, limited := tt.admit("192.0.2.1", "alice", "secret", true)
		if limited != nil {
			t.Fatalf("login: got %v, want it admitted", limited)
		}
		defer a.release()
		return a
	}
	login().accepted()
	if a := login(); !a.repeated || !a.pairKnown {
		t.Errorf("after a right login: got repeated %t and pairKnown %t, want both", a.repeated, a.pairKnown)
	}
	tt.expect("guesses", tt.guess(100, "192.0.2.1", "bob"), accountBurst)
	login().refused() // the password has been changed
	if a := login(); a.repeated || !a.pairKnown {
		t.Errorf("after a wrong login: got repeated %t and pairKnown %t, want only the latter", a.repeated, a.pairKnown)
	}
	tt.expect("guesses after a wrong login", tt.guess(100, "192.0.2.1", "carol"), addressBurst-accountBurst-1)
	if _, limited := tt.admit("192.0.2.1", "alice", "secret", true); limited == nil {
		t.Error("the old password, with an empty bucket: got admitted, want an error")
	}
}

// TestThrottleInFlight checks that concurrent guesses are limited, and that equal
// logins count as one.
func TestThrottleInFlight(t *testing.T) {
	tt := newThrottleTest(t)
	var attempts []*attempt
	start := func(address, name, password string) bool {
		a, limited := tt.admit(address, name, password, !new(Accounts).isToken(name, password))
		if limited != nil {
			return false
		}
		attempts = append(attempts, a)
		return true
	}
	started := 0
	for i := range 500 {
		for range 3 {
			if start("192.0.2.1", fmt.Sprint("user", i), "x") {
				started++
			}
		}
	}
	tt.expect("logins from one address", started, 3*maxAddressInFlight)
	started = 0
	for i := range 500 {
		if start(fmt.Sprint("198.51.100.", i), "alice", fmt.Sprint(i)) {
			started++
		}
	}
	tt.expect("logins to one account", started, accountBurst)
	for _, a := range attempts {
		a.refused()
		a.release()
	}
	// The bucket is overdrawn.
	tt.clock = tt.clock.Add(addressEvery * (maxAddressInFlight - addressBurst))
	tt.expect("a guess soon after", tt.guess(1, "192.0.2.1", "zoe"), 0)
	tt.clock = tt.clock.Add(addressEvery * maxAddressInFlight)
	tt.expect("a guess later", tt.guess(1, "192.0.2.1", "zoe"), 1)
}

// TestThrottleMemory checks that the memory of a throttle is bounded.
func TestThrottleMemory(t *testing.T) {
	tt := newThrottleTest(t)
	for i := range 2 * remembered {
		tt.login(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), fmt.Sprint("user", i), "wrong")
	}
	for _, n := range []int{tt.addresses.Len(), tt.accounts.Len(), tt.wrong.Len(), tt.right.Len(), tt.known.Len()} {
		if n > remembered {
			t.Errorf("remembered entries: got %d, want at most %d", n, remembered)
		}
	}
}
