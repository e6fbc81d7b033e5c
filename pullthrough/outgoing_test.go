package pullthrough

import (
	"errors"
	"testing"
)

// TestOutgoing counts an answer once, however many take it.
func TestOutgoing(t *testing.T) {
	var o Outgoing
	first, second := make([]byte, maxAnswers), make([]byte, maxAnswers)
	shared, done, err := o.Take("a", first)
	if err != nil || &shared[0] != &first[0] {
		t.Fatalf("got %v", err)
	}
	again, doneAgain, err := o.Take("a", second)
	if err != nil || &again[0] != &first[0] {
		t.Errorf("the same again: got %v, want what is being sent", err)
	}
	if _, _, err := o.Take("b", make([]byte, largeAnswer+1)); !errors.Is(err, errTooManyAnswers) {
		t.Errorf("another: got %v, want %v", err, errTooManyAnswers)
	}
	if _, _, err := o.Take("c", make([]byte, largeAnswer)); err != nil {
		t.Errorf("a small one: %v", err)
	}
	done()
	doneAgain()
	if o.bytes != 0 || len(o.answers) != 0 {
		t.Errorf("afterwards: %d bytes, %d answers", o.bytes, len(o.answers))
	}
}
