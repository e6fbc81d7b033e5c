package admin

import (
	"fmt"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// The last warnings are kept with their fields, in a bounded number of bytes.
func TestRecent(t *testing.T) {
	logger := Remember(zap.NewNop()).With(zap.String("upstream", "docker.io"))
	logger.Info("not kept")
	for i := range maxRecent + 5 {
		logger.Warn(fmt.Sprint("warning ", i), zap.String("long", strings.Repeat("x", 2*maxRecentText)), zap.Int("i", i))
	}
	lines := Recent()
	if len(lines) != maxRecent || lines[0].Message != "warning 24" || lines[maxRecent-1].Message != "warning 5" {
		t.Fatalf("got %d lines from %q to %q, want the last %d, the newest first", len(lines), lines[0].Message, lines[len(lines)-1].Message, maxRecent)
	}
	if f := lines[0].Fields; f["upstream"] != "docker.io" || f["i"] != "24" || len(f["long"]) != maxRecentText || lines[0].Level != "warn" {
		t.Errorf("got %+v, want the fields, cut", lines[0])
	}
}
