package access

import (
	"strings"
	"testing"
)

func TestSubnetOf(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "2001:db8:1:2::1%eth0": "2001:db8:1:2::/64",
		"::1": "::/64", "": "", "@": "@",
	} {
		if got := subnetOf(address); got != want {
			t.Errorf("subnet of %q: got %s, want %s", address, got, want)
		}
	}
}

// TestLooseNameLimit checks that a name which is too long is left unchanged.
func TestLooseNameLimit(t *testing.T) {
	name := strings.Repeat("x", maxLooseName+1) + " "
	if got := looseName(name); got != name {
		t.Errorf("got a name of %d bytes, want the %d bytes that were given", len(got), len(name))
	}
}
