package directory

import (
	"strings"
	"testing"
	"time"
)

// TestAccountMap: the highest role of several map lines counts, and a line without a role
// makes a member.
func TestAccountMap(t *testing.T) {
	var account Account
	for _, role := range []string{"", "owner", "maintainer"} {
		account.Map("acme", role)
	}
	account.Map("tools", "")
	if got := account.Mapped; len(got) != 2 || got["acme"] != Owner || got["tools"] != Member {
		t.Errorf("got %v, want an owner of acme and a member of tools", got)
	}
}

// TestReadMapping: an arrow, a group and perhaps a role, which must exist.
func TestReadMapping(t *testing.T) {
	for text, want := range map[string]string{
		"-> acme": "", "-> acme owner": "", "-> acme/x member": "",
		"-> acme admin": "unknown role 'admin'; use member, maintainer or owner", "-> Acme": "invalid group 'Acme'",
		"-> acme no role": "form", "->": "form", "acme": "form", "= acme": "form", "": "form",
	} {
		var group, role string
		got := "form"
		if ReadMapping(strings.Fields(text), &group, &role) {
			got = ""
			if err := CheckMapping(group, role); err != nil {
				got = err.Error()
			}
		}
		if !strings.HasPrefix(got, want) || (got == "") != (want == "") {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if err := CheckMapping("acme", "no role"); err == nil {
		t.Error("the name of no role is accepted as a role")
	}
}

// TestCheckAge: a login is valid until its limit, and not before it has happened.
func TestCheckAge(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for age, want := range map[time.Duration]string{
		0: "", time.Hour: "", time.Hour + time.Second: "the login is 1h0m1s old, and max_age is 1h0m0s", -10 * time.Second: "", -time.Hour: "the login is from the future; check the clocks",
	} {
		got := ""
		if err := CheckAge("the login", now.Add(-age), "max_age", time.Hour, now); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%v: got %q, want %q", age, got, want)
		}
	}
}

// TestCheckAccountName: names must fit into a token and a log.
func TestCheckAccountName(t *testing.T) {
	for name, want := range map[string]bool{
		"alice": true, "repo:acme/app:ref:refs/heads/main": true, "zoë": true, strings.Repeat("x", MaxName): true,
		"": false, strings.Repeat("x", MaxName+1): false, "a\nb": false, "\u0085": false, "\xff": false,
	} {
		if err := CheckAccountName(name); (err == nil) != want {
			t.Errorf("%q: got %v, want accepted %v", name, err, want)
		}
	}
}
