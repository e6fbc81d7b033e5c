package gitlab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabapi"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
)

// TestJudge: definite answers are remembered, GitLab is left alone for as long as
// it says, within limits, and one odd question does not stop the others.
func TestJudge(t *testing.T) {
	const cacheFor = 30 * time.Second
	away := func(retryAfter time.Duration) error {
		return fmt.Errorf("wrapped: %w", &gitlabapi.Trouble{What: "it", Away: true, Wait: retryAfter, Err: errors.New("its rate limit is reached")})
	}
	for _, row := range []struct {
		err         error
		wantVerdict memo.Verdict
		wantPause   time.Duration
	}{
		{away(0), memo.AllFailed, 10 * time.Second},
		{away(time.Second), memo.AllFailed, time.Second},
		{away(40 * time.Second), memo.AllFailed, 40 * time.Second},
		{away(time.Hour), memo.AllFailed, time.Minute},
		{&gitlabapi.Trouble{What: "it", Err: errors.New("status 400")}, memo.Failed, 10 * time.Second},
		{context.DeadlineExceeded, memo.Failed, 10 * time.Second},
		{fs.ErrNotExist, memo.Refused, cacheFor},
		{gitlabapi.ErrRefused, memo.Refused, cacheFor},
		{fmt.Errorf("%w: %w", directory.ErrWrongPassword, directory.ErrThisRequest), memo.Refused, 0},
	} {
		if verdict, pause := judge(row.err, cacheFor); verdict != row.wantVerdict || pause != row.wantPause {
			t.Errorf("%v: got verdict %d and a pause of %v, want %d and %v", row.err, verdict, pause, row.wantVerdict, row.wantPause)
		}
	}
	if _, pause := judge(away(0), time.Second); pause != time.Second {
		t.Errorf("got a pause of %v, want no longer than answers are fresh", pause)
	}
}
