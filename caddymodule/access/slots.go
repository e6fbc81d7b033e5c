package access

import (
	"cmp"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
)

const (
	// maxChecks is the default number of logins of one class that are checked
	// at once.
	maxChecks = 1024

	// maxEqual is the number of additional checks of logins that equal one which
	// is being checked.
	maxEqual = 4 * maxChecks
)

// slots limits the number of logins that are checked at once. Each class of
// logins has slots of its own, so that one class cannot starve another. A channel
// holds one element for each check that is running.
type slots struct {
	unknown chan struct{} // from addresses without an earlier success
	known   chan struct{} // from addresses with one
	tokens  chan struct{} // access tokens of the site, which wait for no directory
	equal   chan struct{} // equal to a login that is being checked
}

// newSlots returns slots for as many logins of each class; 0 means maxChecks.
func newSlots(checks int) slots {
	checks = cmp.Or(checks, maxChecks)
	return slots{
		unknown: make(chan struct{}, checks),
		known:   make(chan struct{}, checks),
		tokens:  make(chan struct{}, checks),
		equal:   make(chan struct{}, maxEqual),
	}
}

// taken returns the number of logins that are being checked.
func (s slots) taken() int {
	return len(s.unknown) + len(s.known) + len(s.tokens) + len(s.equal)
}

// takeSlot takes a slot for the check of a login until leave is called. The
// error is [password.ErrBusy] if none is free. Equal logins from one address, such
// as those of CI jobs, have slots of their own, because the directories check them
// together.
func (a *attempt) takeSlot(isToken bool) (leave func(), err error) {
	s := a.throttle.slots
	classes := []chan struct{}{s.unknown}
	switch {
	case a.addressKnown:
		classes[0] = s.known
	case isToken:
		classes[0] = s.tokens
	}
	if a.hasEqual() {
		classes = []chan struct{}{s.equal, classes[0]}
	}
	for _, class := range classes {
		select {
		case class <- struct{}{}:
			return func() { <-class }, nil
		default:
		}
	}
	return nil, password.ErrBusy
}
