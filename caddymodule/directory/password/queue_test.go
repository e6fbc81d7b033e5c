package password

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestHashQueue: no more at once than there are slots, those from where
// somebody has logged in first, and neither many nor long to wait.
func TestHashQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(1, MaxWaiting, MaxWaiting)
		leave, err := q.Enter(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := q.Enter(t.Context(), false); !errors.Is(err, ErrBusy) || time.Since(began) != Patience {
			t.Errorf("after %s: %v", time.Since(began), err)
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
			t.Errorf("one too many: %v", err)
		}
		leave()
		synctest.Wait()
		// One stranger stood at the slot already.
		if len(order) != MaxWaiting+1 || order[1] != "friend" {
			t.Errorf("order: %v", order)
		}
	})
}
