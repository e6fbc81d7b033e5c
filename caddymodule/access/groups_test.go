package access

import (
	"slices"
	"testing"
)

func TestUpwards(t *testing.T) {
	for group, want := range map[string][]string{
		"": nil, "a": {"a"}, "a/b": {"a/b", "a"}, "a/bc/d": {"a/bc/d", "a/bc", "a"},
	} {
		if got := slices.Collect(Upwards(group)); !slices.Equal(got, want) {
			t.Errorf("upwards from %q: got %q, want %q", group, got, want)
		}
	}
}

// TestPolicyShareOf checks that a group which is not declared belongs to the share
// of the nearest declared group, or else of its first component.
func TestPolicyShareOf(t *testing.T) {
	p := NewPolicy([]Group{{Path: "red"}, {Path: "red/own"}, {Path: "blue/deep/er"}}, true, nil)
	for group, want := range map[string]string{
		"red": "red", "red/a": "red", "red/a/b": "red", "red/own": "red/own", "red/own/x": "red/own", "red/owner": "red",
		"blue/deep/er/x": "blue/deep/er", "blue/deep": "blue", "blue": "blue", "other/a/b": "other", "redder": "redder",
	} {
		if got := p.ShareOf(group); got != want {
			t.Errorf("share of %s: got %s, want %s", group, got, want)
		}
	}
}
