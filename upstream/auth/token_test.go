package auth

import (
	"strings"
	"testing"
	"time"
)

func TestParseToken(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		content, value string
		renew          time.Duration
	}{
		{`{"token":"t"}`, "t", 48 * time.Second},
		{`{"access_token":"a"}`, "a", 48 * time.Second},
		{`{"token":"t","access_token":"a","expires_in":300}`, "t", 240 * time.Second},
		{`{"token":"t","expires_in":300.0}`, "t", 240 * time.Second},
		{`{"token":"t","expires_in":59}`, "t", 48 * time.Second},
		{`{"token":"t","expires_in":0}`, "t", 48 * time.Second},
		{`{"token":"t","expires_in":-1}`, "t", 48 * time.Second},
		{`{"token":"t","expires_in":null}`, "t", 48 * time.Second},
		{`{"token":"t","expires_in":"300"}`, "t", 48 * time.Second},
		{`{"token":"t","expires_in":1e300}`, "t", 48 * time.Minute},
		{`{"token":"t","issued_at":"nonsense","refresh_token":7}`, "t", 48 * time.Second},
		{`{}`, "", 0},
		{`[]`, "", 0},
		{``, "", 0},
		{`<html>`, "", 0},
		{`{"token":7}`, "", 0},
		{`{"token":"a b"}`, "", 0},
		{`{"token":"a\r\nX: y"}`, "", 0},
		{`{"token":"` + strings.Repeat("x", maxToken+1) + `"}`, "", 0},
	} {
		got, err := Request{Repository: "a"}.ParseToken([]byte(test.content), now)
		if (err == nil) != (test.value != "") {
			t.Errorf("ParseToken(%.80s): got %v, want valid %v", test.content, err, test.value != "")
		}
		if err == nil && (got.Value != test.value || got.Repository != "a" || got.renewAt.Sub(now) != test.renew) {
			t.Errorf("ParseToken(%s): got %s, renewed after %v, want %s after %v", test.content, got.Value, got.renewAt.Sub(now), test.value, test.renew)
		}
	}
}
