//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
)

// answer is an HTTP response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// code returns the first code of an OCI error, or the empty string.
func (a answer) code() string {
	var errors struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(a.body, &errors) != nil || len(errors.Errors) == 0 {
		return ""
	}
	return errors.Errors[0].Code
}

// want reports an error unless the answer has the status and, for an error, the code.
func (a answer) want(t *testing.T, status int, code string) {
	t.Helper()
	if a.status != status || a.code() != code {
		t.Errorf("answered %d %q, want %d %q: %s", a.status, a.code(), status, code, a.body)
	}
}

// get requests a path of the site, with a token unless it is empty.
func (p *proxy) get(t *testing.T, token, path string) answer {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, "https://"+p.host+path, nil)
	must(t, err)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return send(t, request)
}

func send(t *testing.T, request *http.Request) answer {
	t.Helper()
	got, err := lab.client().Do(request)
	must(t, err)
	return answer{got.StatusCode, got.Header, readAll(t, got)}
}

func readAll(t *testing.T, got *http.Response) []byte {
	t.Helper()
	defer got.Body.Close()
	body, err := io.ReadAll(got.Body)
	must(t, err)
	return body
}

// askToken requests a token; an empty account requests an anonymous one.
func (p *proxy) askToken(t *testing.T, account, password string) answer {
	t.Helper()
	query := url.Values{"service": {"dependency_proxy"}}
	request, err := http.NewRequest(http.MethodGet, "https://"+p.host+"/jwt/auth?"+query.Encode(), nil)
	must(t, err)
	if account != "" {
		request.SetBasicAuth(account, password)
	}
	return send(t, request)
}

// login returns a token for the account, or an anonymous one.
func (p *proxy) login(t *testing.T, account string) string {
	t.Helper()
	got := p.askToken(t, account, password)
	var reply struct{ Token string }
	if got.status != http.StatusOK || json.Unmarshal(got.body, &reply) != nil || reply.Token == "" {
		t.Fatalf("no token for %q: %d %s", account, got.status, got.body)
	}
	return reply.Token
}

func manifestPath(group, image, reference string) string {
	return "/v2/" + group + "/dependency_proxy/containers/" + image + "/manifests/" + reference
}

func blobPath(group, image, digest string) string {
	return "/v2/" + group + "/dependency_proxy/containers/" + image + "/blobs/" + digest
}

// is returns an error unless the answer has the status, for callers that poll.
func (a answer) is(status int) error {
	if a.status != status {
		return fmt.Errorf("answered %d %s, want %d", a.status, a.body, status)
	}
	return nil
}
