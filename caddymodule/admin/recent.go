package admin

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// maxRecent is how many log lines are kept, and maxRecentText the limit of a
	// field of one, in bytes.
	maxRecent     = 20
	maxRecentText = 500
)

// LogLine is a warning or an error that was logged.
type LogLine struct {
	Time    time.Time         `json:"time"`
	Level   string            `json:"level"`
	Message string            `json:"message"`
	Fields  map[string]string `json:"fields,omitempty"`
}

// recent has the last warnings and errors of the process.
var recent struct {
	mu    sync.Mutex
	lines []LogLine // the oldest first
}

// Recent returns the last warnings and errors that were logged, the newest first.
func Recent() []LogLine {
	recent.mu.Lock()
	defer recent.mu.Unlock()
	lines := slices.Clone(recent.lines)
	slices.Reverse(lines)
	return lines
}

// Remember makes a logger keep its last warnings and errors for [Recent], in addition
// to logging them. As no secret is logged, none is kept.
func Remember(logger *zap.Logger) *zap.Logger {
	return logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core { return zapcore.NewTee(core, recentCore{}) }))
}

// recentCore is a [zapcore.Core] that keeps warnings and errors.
type recentCore struct{ fields []zapcore.Field }

// Enabled implements [zapcore.LevelEnabler].
func (recentCore) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

// With implements [zapcore.Core].
func (c recentCore) With(fields []zapcore.Field) zapcore.Core {
	return recentCore{slices.Concat(c.fields, fields)}
}

// Check implements [zapcore.Core].
func (c recentCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write implements [zapcore.Core].
func (c recentCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	encoder := zapcore.NewMapObjectEncoder()
	for _, field := range slices.Concat(c.fields, fields) {
		field.AddTo(encoder)
	}
	line := LogLine{Time: e.Time.UTC(), Level: e.Level.String(), Message: e.Message, Fields: make(map[string]string)}
	for name, value := range encoder.Fields {
		text := fmt.Sprint(value)
		line.Fields[name] = text[:min(len(text), maxRecentText)]
	}
	recent.mu.Lock()
	defer recent.mu.Unlock()
	recent.lines = append(recent.lines, line)
	if len(recent.lines) > maxRecent {
		recent.lines = slices.Delete(recent.lines, 0, 1)
	}
	return nil
}

// Sync implements [zapcore.Core].
func (recentCore) Sync() error { return nil }

// Interface guard
var _ zapcore.Core = recentCore{}
