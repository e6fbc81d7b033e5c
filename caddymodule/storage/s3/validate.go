package s3

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

var (
	errUsage       = errors.New("write `storage s3 { bucket NAME … }`, with the name in the block")
	errCredentials = errors.New("storage s3: write `credentials ID SECRET`, with a placeholder for the secret such as {file./run/secrets/s3}; without the line, they come from the environment, a web identity or the role of the machine")
	errSecret      = errors.New("storage s3: the secret must be a placeholder, since the admin API shows the configuration; write {env.S3_SECRET} or {file./run/secrets/s3}")
)

// minRedirect and maxRedirect are the shortest and the longest lifetime of a signed URL
// (Signature Version 4, "Authenticating Requests: Using Query Parameters").
const (
	minRedirect = time.Second
	maxRedirect = 7 * 24 * time.Hour
)

// defaultPrefix is used if there is no prefix.
const defaultPrefix = "dependency_proxy/"

// bucketName follows the rules of Amazon S3 for new buckets.
var (
	bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	regionName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	prefixName = regexp.MustCompile(`^([A-Za-z0-9._-]+/)+$`)
)

// check checks what can be checked before placeholders are replaced.
func (s *S3) check() error {
	if s.Bucket == "" {
		return errors.New("storage s3: missing bucket; write `bucket NAME`")
	}
	if s.Endpoint == "" && s.Region == "" {
		return errors.New("storage s3: write `endpoint https://HOST`, or for Amazon S3 `region REGION`")
	}
	return cmp.Or(s.checkCredentials(), s.checkRedirect())
}

func (s *S3) checkCredentials() error {
	switch {
	case (s.AccessKey == "") != (s.SecretKey == ""):
		return errCredentials
	case s.SecretKey != "" && !parse.IsPlaceholder(s.SecretKey):
		return errSecret
	}
	return nil
}

func (s *S3) checkRedirect() error {
	if d := time.Duration(s.Redirect); d != 0 && (d < minRedirect || d > maxRedirect) {
		return fmt.Errorf("storage s3: redirect %v: a signed URL is valid for a second to seven days; write a duration such as 60s, or off", d)
	}
	return nil
}

// isLoopback reports whether only this machine can reach a host.
func isLoopback(host string) bool {
	address := net.ParseIP(host)
	return host == "localhost" || address != nil && address.IsLoopback()
}

// complete checks the settings and sets defaults, after placeholders are replaced.
func (s *S3) complete() error {
	if err := s.check(); err != nil {
		return err
	}
	s.Endpoint = cmp.Or(s.Endpoint, "https://s3."+s.Region+".amazonaws.com")
	s.Region = cmp.Or(s.Region, "us-east-1")
	s.Prefix = cmp.Or(s.Prefix, defaultPrefix)
	if !strings.HasSuffix(s.Prefix, "/") {
		s.Prefix += "/"
	}
	u, ok := parse.URL(s.Endpoint, "https", "http")
	switch {
	case !ok || strings.Trim(u.Path, "/") != "":
		// The text is not shown: it may hold a password by mistake.
		return errors.New("storage s3: invalid endpoint; write a URL without the bucket, such as https://s3.example.com")
	case !bucketName.MatchString(s.Bucket) || strings.Contains(s.Bucket, ".."):
		return fmt.Errorf("storage s3: invalid bucket '%s'; names have 3 to 63 lower-case letters, digits, dots and hyphens", s.Bucket)
	case !s.PathStyle && strings.Contains(s.Bucket, ".") && u.Scheme == "https":
		return fmt.Errorf("storage s3: the certificate of the object store does not cover the host of bucket '%s', since its name has a dot; write `path_style on`", s.Bucket)
	case s.Redirect != 0 && u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("storage s3: redirect needs an endpoint with https, since anybody who sees a signed URL can use it; write https://, or `redirect off`")
	case !regionName.MatchString(s.Region):
		return fmt.Errorf("storage s3: invalid region '%s'; write one such as eu-central-1", s.Region)
	case !prefixName.MatchString(s.Prefix) || strings.Contains("/"+s.Prefix, "/./") || strings.Contains("/"+s.Prefix, "/../") || len(s.Prefix) > maxPrefix:
		return fmt.Errorf("storage s3: invalid prefix '%s'; write letters, digits, '.', '_' and '-', separated by single slashes and without one at the start, at most %d in all", s.Prefix, maxPrefix)
	}
	s.endpoint = &url.URL{Scheme: u.Scheme, Host: u.Host}
	s.Endpoint = s.endpoint.String()
	return nil
}

// maxPrefix leaves room for the names of records, since the name of an object has at
// most 1024 bytes.
const maxPrefix = 256
