package bucket

import (
	"context"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/flight"
)

// identityLimit is how long it may take to learn the credentials.
const identityLimit = 10 * time.Second

// identify learns the credentials unless they are known. The service that has them may be
// slow, and minio-go holds a lock meanwhile, so a request must not ask for them by itself:
// it could not end with its context.
func (c *client) identify(ctx context.Context) error {
	_, err := flight.Do(ctx, &c.identities, "", func(ctx context.Context) (credentials.Value, error) {
		ctx, cancel := context.WithTimeout(ctx, identityLimit)
		defer cancel()
		return c.identity(ctx)
	})
	return err
}

// identity returns the credentials, as remembered until they expire.
func (c *client) identity(ctx context.Context) (credentials.Value, error) {
	return c.credentials.GetWithContext(&credentials.CredContext{
		Client:   &http.Client{Transport: c.meter.next}, // not counted as requests to the bucket
		Endpoint: c.api.CredContext().Endpoint,
		Context:  ctx,
	})
}

// renew reads the credentials again. It reports whether they have changed.
func (c *client) renew(ctx context.Context) bool {
	changed, err := flight.Do(ctx, &c.identities, "renew", func(ctx context.Context) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, identityLimit)
		defer cancel()
		used, err := c.identity(ctx)
		if err != nil {
			return false, err
		}
		c.credentials.Expire()
		now, err := c.identity(ctx)
		return now.AccessKeyID != used.AccessKeyID || now.SecretAccessKey != used.SecretAccessKey || now.SessionToken != used.SessionToken, err
	})
	return changed && err == nil
}
