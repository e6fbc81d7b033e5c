package sitetest

import (
	"net/http"
	"strconv"
	"testing"
)

// SameHeaders checks that HEAD and GET have the same status and headers.
func SameHeaders(t testing.TB, get, head Answer) {
	t.Helper()
	if len(head.Data) > 0 {
		t.Errorf("HEAD %s: got a body of %d bytes, want none", head.Request.URL, len(head.Data))
	}
	if get.StatusCode != head.StatusCode {
		t.Errorf("%s: got status %d for HEAD, want %d as for GET", get.Request.URL, head.StatusCode, get.StatusCode)
	}
	for name := range allHeaders(get.Header, head.Header) {
		g, h := get.Header.Get(name), head.Header.Get(name)
		if g != h && name != "Date" && (name != "Age" || !older(g, h)) {
			t.Errorf("%s: got %s %q for HEAD, want %q as for GET", get.Request.URL, name, h, g)
		}
	}
}

// older reports whether the second of two values of Age is greater, as it may be in a
// later answer.
func older(a, b string) bool {
	first, err1 := strconv.Atoi(a)
	second, err2 := strconv.Atoi(b)
	return err1 == nil && err2 == nil && second > first
}

// allHeaders returns a header with the fields of both.
func allHeaders(a, b http.Header) http.Header {
	c := a.Clone()
	for name := range b {
		c[name] = b[name]
	}
	return c
}

// SameStatus checks that HEAD has the same status as GET and no body.
func SameStatus(t *testing.T, get, head Answer) {
	t.Helper()
	if head.StatusCode != get.StatusCode || len(head.Data) != 0 {
		t.Errorf("%s: got status %d and %d bytes for HEAD, want %d as for GET and none", get.Request.URL, head.StatusCode, len(head.Data), get.StatusCode)
	}
}
