package auth

import (
	"strings"
	"testing"
)

func TestLoginCheck(t *testing.T) {
	const password = "password-that-must-not-leak"
	for _, test := range []struct {
		login Login
		valid bool
	}{
		{Login{"robot", password}, true},
		{Login{}, false},
		{Login{"robot", ""}, false},
		{Login{"", password}, false},
		{Login{"u:v", password}, false},
		{Login{"u\x00", password}, false},
		{Login{"robot", password + "\n"}, false},
		{Login{"robot", password + "\r\nHost: x"}, false},
		{Login{"robot", password + " é"}, true},
	} {
		if err := test.login.Check(); (err == nil) != test.valid || err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("%v: got %v, want valid %v and no password", test.login, err, test.valid)
		}
	}
}
