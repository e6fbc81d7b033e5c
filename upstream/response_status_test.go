package upstream

import (
	"net/http"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func TestRegistryStatusErrors(t *testing.T) {
	body := func(code string) string {
		return `{"errors":[{"code":"` + code + `","message":"token-that-must-not-leak"}]}`
	}
	for _, test := range []struct {
		status int
		body   string
		kind   Kind
	}{
		{404, body("MANIFEST_UNKNOWN"), ManifestUnknown},
		{404, body("NAME_UNKNOWN"), NameUnknown},
		{404, "<html>token-that-must-not-leak", ManifestUnknown},
		{404, body("x-that-must-not-leak"), ManifestUnknown},
		{410, "", ManifestUnknown},
		{400, body("NAME_INVALID"), NameUnknown},
		{400, body("UNSUPPORTED"), Invalid},
		{403, body("DENIED"), Denied},
		{403, body("TOOMANYREQUESTS"), RateLimited},
		{401, body("UNAUTHORIZED"), Denied},
		{451, "", Denied},
		{429, "plain", RateLimited},
		{408, "", Timeout},
		{500, "<html>", Unavailable},
		{502, "", Unavailable},
		{503, body("NAME_UNKNOWN"), Unavailable},
		{504, "", Unavailable},
		{204, "", Invalid},
		{206, "x", Invalid},
		{304, "", Invalid},
		{418, "", Invalid},
	} {
		r := registrytest.New(t)
		r.Fail(registrytest.Failure{Status: test.status, Body: test.body, Header: http.Header{"Retry-After": {"9"}}})
		_, err := client(t, r).Manifest(t.Context(), "a", "1")
		e := wantKind(t, err, test.kind)
		if e.Status != test.status || e.RetryAfter != 9*time.Second && e.Status != 401 {
			t.Errorf("status %d: got status %d, RetryAfter %v, want RetryAfter 9s", test.status, e.Status, e.RetryAfter)
		}
	}
}
