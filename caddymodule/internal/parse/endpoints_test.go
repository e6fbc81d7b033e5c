package parse

import (
	"strings"
	"testing"
)

// TestEndpointsWithAPI checks that an endpoint that contains the path of the API is
// refused with the endpoint to write, and that other paths are accepted.
func TestEndpointsWithAPI(t *testing.T) {
	for text, want := range map[string]string{
		"https://h":                     "",
		"https://h/":                    "",
		"https://h/prefix":              "",
		"https://h/v2ray/v20":           "",
		"https://h/v2":                  "write https://h",
		"https://h/v2/":                 "write https://h",
		"http://h:5000/v2/library":      "write http://h:5000, and library before the name",
		"https://h/v2/a/b/":             "write https://h, and a/b before the name",
		"https://h/prefix/v2":           "write https://h/prefix",
		"https://h/api/docker/v2/local": "write https://h/api/docker, and local before the name",
	} {
		_, err := Endpoints([]string{text})
		if (err == nil) != (want == "") || err != nil && !strings.HasSuffix(err.Error(), want) && !strings.Contains(err.Error(), want+" ") {
			t.Errorf("%s: got error %v, want %q", text, err, want)
		}
	}
	if _, err := Endpoints([]string{"https://a", "https://b/v2"}); err == nil || !strings.Contains(err.Error(), "endpoint 2 of 2") {
		t.Errorf("got error %v, want one about the second endpoint", err)
	}
}
