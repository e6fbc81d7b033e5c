package admin

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
)

// deadlineWriter counts the lines that are written with no deadline before them.
type deadlineWriter struct {
	httptest.ResponseRecorder
	limited          bool
	lines, unlimited int
}

func (w *deadlineWriter) SetWriteDeadline(at time.Time) error {
	w.limited = time.Until(at) > 0 && time.Until(at) <= warmPatience
	return nil
}

func (w *deadlineWriter) Write(p []byte) (int, error) {
	if w.lines++; !w.limited {
		w.unlimited++
	}
	w.limited = false
	return w.ResponseRecorder.Write(p)
}

// A client that does not read must not keep the pull, and so the slot of another image,
// for ever.
func TestStreamWarmLimitsSlowClients(t *testing.T) {
	w := &deadlineWriter{ResponseRecorder: *httptest.NewRecorder()}
	streamWarm(w, httptest.NewRequest(http.MethodPost, warmPath, nil), WarmState{}, func(_ context.Context, report func(pullthrough.Progress)) error {
		report(pullthrough.Progress{Blobs: 1})
		return nil
	})
	if w.lines < 2 || w.unlimited > 0 || len(warmSlots) != 0 {
		t.Errorf("got %d lines, %d of them without a deadline, and %d slots in use; want a deadline for each line, and no slot", w.lines, w.unlimited, len(warmSlots))
	}
}
