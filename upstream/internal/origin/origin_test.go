package origin

import (
	"net/url"
	"testing"
)

func TestSame(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"https://h/a", "https://H:443/b?c", true},
		{"http://h", "http://h:80", true},
		{"http://[::1]", "http://[::1]:80", true},
		{"http://h:443", "https://h:443", false},
		{"http://h:443", "http://h", false},
		{"https://h", "https://h:8443", false},
		{"https://h", "https://h.", false},
		{"https://a.h", "https://h", false},
	} {
		a, err := url.Parse(test.a)
		if err != nil {
			t.Fatal(err)
		}
		b, err := url.Parse(test.b)
		if err != nil {
			t.Fatal(err)
		}
		if Same(a, b) != test.want || Same(b, a) != test.want {
			t.Errorf("%s and %s: got the same origin: %t, want %t", test.a, test.b, !test.want, test.want)
		}
	}
}
