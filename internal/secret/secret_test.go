package secret

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestStringFormat(t *testing.T) {
	s := String("hunter2")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%10s"} {
		if got := fmt.Sprintf(verb, s); got != redacted {
			t.Errorf("Sprintf(%q) = %q, want %q", verb, got, redacted)
		}
		if got := fmt.Sprintf(verb, struct{ S String }{s}); !strings.Contains(got, redacted) || strings.Contains(got, "hunter2") {
			t.Errorf("Sprintf(%q) of a struct = %q, want %q for the secret", verb, got, redacted)
		}
		if got := fmt.Sprintf(verb, String("")); got != "" {
			t.Errorf("Sprintf(%q) of an empty secret = %q, want an empty string", verb, got)
		}
	}
}

func TestStringMarshalText(t *testing.T) {
	got, err := json.Marshal(struct {
		Set   String
		Empty String `json:",omitempty"`
	}{Set: "hunter2"})
	if want := `{"Set":"*****"}`; err != nil || string(got) != want {
		t.Errorf("Marshal = %s, %v, want %s", got, err, want)
	}
}
