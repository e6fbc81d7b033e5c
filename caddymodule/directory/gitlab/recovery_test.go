package gitlab

import (
	"context"
	"errors"
	"io/fs"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabapi"
)

// TestAnswersAfterRecovery checks that a member who was removed while GitLab was
// away is refused by the first answer after it is back.
func TestAnswersAfterRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache[string](30*time.Second, 10*time.Minute)
		var value string
		var fail error
		ask := func(context.Context) (string, error) { return value, fail }
		value = "member"
		if _, err := c.Get(t.Context(), "1/2", ask); err != nil {
			t.Fatal(err)
		}
		time.Sleep(31 * time.Second)
		value, fail = "", &gitlabapi.Trouble{What: "x", Away: true, Err: errors.New("503")}
		if got, err := c.Get(t.Context(), "1/2", ask); got != "member" || err != nil {
			t.Fatalf("while GitLab is away: got %q, %v, want member", got, err)
		}
		time.Sleep(14 * time.Second) // the pause of 10s is over, GitLab answers, the member is gone
		fail = fs.ErrNotExist
		got, err := c.Get(t.Context(), "1/2", ask)
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %q, %v, want the removal", got, err)
		}
		synctest.Wait()
	})
}
