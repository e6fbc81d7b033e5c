package pullthrough

import (
	"context"
	"testing"
)

// TestOncePanics checks that a panic of a question, such as of a guest transport,
// reaches the caller and does not end the process.
func TestOncePanics(t *testing.T) {
	r := New(Config{Flights: new(Flights)})
	defer func() {
		if recover() == nil {
			t.Error("got no panic, want that of the question")
		}
	}()
	_, err := once(t.Context(), r, "manifest latest", func(context.Context) (int, error) { panic("a bug") })
	t.Errorf("got the error %v, want a panic", err)
}
