package password

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestQueueEnter: there are no more turns than slots, logins from known addresses go first,
// and both the number of waiting logins and their time are limited.
func TestQueueEnter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(1, MaxWaiting, MaxWaiting)
		leave, err := q.Enter(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := q.Enter(t.Context(), false); !errors.Is(err, ErrBusy) || time.Since(began) != Patience {
			t.Errorf("got %v after %s, want %v after %s", err, time.Since(began), ErrBusy, Patience)
		}
		var order []string
		wait := func(name string, friendly bool) {
			go func() {
				leave, err := q.Enter(t.Context(), friendly)
				order = append(order, name) // while the slot is held
				if err != nil {
					t.Error(err)
					return
				}
				leave()
			}()
			synctest.Wait()
		}
		for i := range MaxWaiting - 1 {
			wait(fmt.Sprint("stranger ", i), false)
		}
		wait("friend", true)
		wait("last stranger", false)
		if _, err := q.Enter(t.Context(), false); !errors.Is(err, ErrBusy) {
			t.Errorf("one too many: got %v, want %v", err, ErrBusy)
		}
		leave()
		synctest.Wait()
		// One login from an unknown address is next already.
		if len(order) != MaxWaiting+1 || order[1] != "friend" {
			t.Errorf("got the order %v, want the friend second of %d", order, MaxWaiting+1)
		}
	})
}
