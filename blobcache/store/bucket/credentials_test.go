package bucket

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// slowIdentity has credentials that come from a service that does not answer until its
// caller gives up or freed is closed.
type slowIdentity struct {
	asked, freed chan struct{}
}

func (p *slowIdentity) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	select {
	case p.asked <- struct{}{}:
	default:
	}
	var gone <-chan struct{}
	if cc.Context != nil {
		gone = cc.Context.Done()
	}
	select {
	case <-p.freed:
		return credentials.Value{AccessKeyID: "access", SecretAccessKey: "secret", SignerType: credentials.SignatureV4}, nil
	case <-gone:
		return credentials.Value{}, cc.Context.Err()
	}
}

func (p *slowIdentity) Retrieve() (credentials.Value, error) { return p.RetrieveWithCredContext(nil) }

func (p *slowIdentity) IsExpired() bool {
	select {
	case <-p.freed:
		return false
	default:
		return true
	}
}

// TestCredentialsSlow: while an upload waits for credentials, reads give up in time, so
// that pulls go on. All goes on with the credentials.
func TestCredentialsSlow(t *testing.T) {
	server := s3test.New(t)
	config := configOf(t, server, t.TempDir())
	identity := &slowIdentity{make(chan struct{}, 1), make(chan struct{})}
	config.Credentials = credentials.New(identity)
	config.waits.answer = 20 * time.Millisecond
	n := start(t, config)
	n.put(t, someContent)
	<-identity.asked
	for range 3 {
		fetched := make(chan error, 1)
		go func() {
			_, _, err := n.Fetch(t.Context(), digest.FromString("other"), 0, -1)
			fetched <- err
		}()
		select {
		case err := <-fetched:
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
			}
		case <-time.After(10 * time.Second):
			close(identity.freed)
			t.Fatal("a read waits for the credentials of an upload")
		}
		time.Sleep(2 * n.config.waits.maxPause)
	}
	close(identity.freed)
	n.flush(t)
}

// TestCredentialsExpired checks that a bucket that refuses all requests because of expired
// credentials or a wrong region fails as a whole, whatever the status, and that the error
// says what to do.
func TestCredentialsExpired(t *testing.T) {
	for code, status := range map[string]int{"ExpiredToken": 400, "InvalidToken": 400, "AuthorizationHeaderMalformed": 400, "PermanentRedirect": 301} {
		t.Run(code, func(t *testing.T) {
			server := s3test.New(t)
			server.Set(s3test.Faults{Status: status, Code: code})
			n := newNode(t, server)
			n.put(t, someContent)
			waitFor(t, func() bool { return n.Status().WriteError != nil })
			if _, _, err := fetchAll(t, n, digest.FromString("other"), 0, -1); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), code+": refused by the test; c") {
				t.Errorf("a read: got %v, want the code and what to do", err)
			}
			if status := n.Status(); status.ReadError == nil || status.FailedBlobs != 0 {
				t.Errorf("got %+v, want a bucket that fails", status)
			}
			server.Set(s3test.Faults{})
			n.flush(t)
		})
	}
}
