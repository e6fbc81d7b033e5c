package pullthrough

import (
	"errors"
	"testing"
)

// An answer counts once, however many clients receive it.
func TestOutgoingTakeSharesAnswers(t *testing.T) {
	var o Outgoing
	first, second := make([]byte, maxAnswers), make([]byte, maxAnswers)
	shared, done, err := o.Take("a", first)
	if err != nil || &shared[0] != &first[0] {
		t.Fatalf("the first answer: got error %v, want its content", err)
	}
	again, doneAgain, err := o.Take("a", second)
	if err != nil || &again[0] != &first[0] {
		t.Errorf("the same answer again: got error %v, want the content that is being sent", err)
	}
	if _, _, err := o.Take("b", make([]byte, largeAnswer+1)); !errors.Is(err, errTooManyAnswers) {
		t.Errorf("another answer: got %v, want %v", err, errTooManyAnswers)
	}
	if _, _, err := o.Take("c", make([]byte, largeAnswer)); err != nil {
		t.Errorf("a small answer: got error %v, want none", err)
	}
	done()
	doneAgain()
	if o.bytes != 0 || len(o.answers) != 0 {
		t.Errorf("afterwards: got %d answers of %d bytes, want none", len(o.answers), o.bytes)
	}
}
