package s3

import (
	"errors"
	"fmt"
	"net/url"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// credentials returns the configured credentials, or else those of the environment, a web identity or a role.
func (s *S3) credentials() *credentials.Credentials {
	if s.SecretKey != "" {
		return credentials.New(&configured{id: s.AccessKey, secret: s.SecretKey})
	}
	return credentials.New(&ambient{providers: []credentials.Provider{
		new(credentials.EnvAWS), &credentials.IAM{Region: s.Region},
	}})
}

// configured reads the placeholders of the configuration. What they stand for may
// change, so the value is read again after it was refused.
type configured struct {
	id, secret string

	mu   sync.Mutex
	read bool
}

// RetrieveWithCredContext implements [credentials.Provider].
func (c *configured) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	id, err := caddy.NewReplacer().ReplaceOrErr(c.id, true, true)
	if err != nil || id == "" {
		return credentials.Value{}, fmt.Errorf("storage s3: the placeholder %s of the access key is empty, or its file cannot be read", c.id)
	}
	secret, err := parse.Secret("s3 secret", c.secret)
	if err != nil {
		return credentials.Value{}, fmt.Errorf("storage s3: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = true
	return credentials.Value{AccessKeyID: id, SecretAccessKey: secret, SignerType: credentials.SignatureV4}, nil
}

// Retrieve implements [credentials.Provider].
func (c *configured) Retrieve() (credentials.Value, error) { return c.RetrieveWithCredContext(nil) }

// IsExpired implements [credentials.Provider].
func (c *configured) IsExpired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.read
}

// ambient asks providers in order. Unlike [credentials.Chain] it fails if none has
// credentials, instead of sending requests without a signature.
type ambient struct {
	providers []credentials.Provider

	mu   sync.Mutex
	last credentials.Provider
}

var errNoCredentials = errors.New("storage s3: there are no credentials in the environment, and neither a web identity nor the role of the machine has any; write `credentials ID SECRET`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")

// RetrieveWithCredContext implements [credentials.Provider].
func (s *ambient) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	var last error
	for _, p := range s.providers {
		value, err := p.RetrieveWithCredContext(cc)
		if err == nil && value.AccessKeyID != "" && value.SecretAccessKey != "" {
			s.mu.Lock()
			s.last = p
			s.mu.Unlock()
			return value, nil
		}
		if err != nil {
			last = err
		}
	}
	if last == nil {
		return credentials.Value{}, errNoCredentials
	}
	if sent := (*url.Error)(nil); errors.As(last, &sent) {
		last = sent.Err // the query of the URL may have secrets
	}
	return credentials.Value{}, fmt.Errorf("%w: %w", errNoCredentials, last)
}

// Retrieve implements [credentials.Provider].
func (s *ambient) Retrieve() (credentials.Value, error) { return s.RetrieveWithCredContext(nil) }

// IsExpired implements [credentials.Provider].
func (s *ambient) IsExpired() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last == nil || s.last.IsExpired()
}
