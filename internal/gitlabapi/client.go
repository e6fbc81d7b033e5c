// Package gitlabapi is a client of the REST API of GitLab 15.5 or later, for what a
// registry needs to know: the owner of a token and whether it is still valid, whether a
// user is active, what a group is and who its members are.
//
// Each method of [Client] sends one GET request, without redirects and with limits on
// time and size. Its error is a definite answer (fs.ErrNotExist, [ErrRefused],
// [ErrForbidden] or [ErrHidden]) or a [Trouble], which leaves the question open. The
// client remembers nothing.
package gitlabapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// Timeout limits one request, including the body of the response.
	Timeout = 10 * time.Second
	// maxAnswer is the limit on a response, in bytes.
	maxAnswer = 1 << 20
)

var (
	// ErrRefused means that GitLab does not accept the credential of a user.
	ErrRefused = errors.New("GitLab refuses the token")
	// ErrForbidden means that the credential is valid but its owner may not use the API,
	// as when the account is blocked.
	ErrForbidden = errors.New("GitLab does not permit the owner of the token to use its API")
	// ErrHidden means that the service token is not permitted to see the answer.
	ErrHidden = errors.New("the service token may not see it")
	// ErrLimited is the cause of a Trouble if GitLab answers that its rate limit is
	// reached.
	ErrLimited = errors.New("its rate limit is reached")
)

// Trouble is an error that leaves a question open: GitLab cannot be reached, is
// overloaded, or sends an invalid response.
type Trouble struct {
	// What names the question.
	What string
	// Wait is the time after which GitLab may be asked again; 0 if it did not say.
	Wait time.Duration
	// Away reports whether other questions of this kind would fail as well.
	Away bool
	// Err is the cause.
	Err error
}

// RetryAfter returns Wait: a site can tell its clients when to try again.
func (t *Trouble) RetryAfter() time.Duration { return t.Wait }

// Error implements [error]. The text contains no token.
func (t *Trouble) Error() string { return fmt.Sprintf("asking GitLab for %s: %v", t.What, t.Err) }

// Unwrap returns the cause.
func (t *Trouble) Unwrap() error { return t.Err }

// Client is a client of one instance. Its methods may be called concurrently.
type Client struct {
	base      string
	token     string
	transport http.RoundTripper
	timeout   time.Duration
}

// New returns a client of the instance at a URL, which may have a path. The service token
// is sent only to the host of that URL.
func New(instance *url.URL, token string, transport http.RoundTripper) *Client {
	return &Client{strings.TrimSuffix(instance.String(), "/"), token, transport, Timeout}
}

// login is the header that authenticates a request.
type login struct{ header, value string }

func (c *Client) service() login { return login{"PRIVATE-TOKEN", c.token} }

// statusError is a definite answer of GitLab itself: 401, 403 or 404.
type statusError int

func (s statusError) Error() string { return "status " + strconv.Itoa(int(s)) }

// is reports whether an error is one of these statuses.
func is(err error, statuses ...int) bool {
	var s statusError
	return errors.As(err, &s) && slices.Contains(statuses, int(s))
}

// ask asks with the service token. The error is ErrHidden for the statuses in hidden.
// Otherwise it is fs.ErrNotExist for a 404, and Trouble if GitLab refuses the token.
func (c *Client) ask(ctx context.Context, what, path string, into any, hidden ...int) error {
	err := c.get(ctx, what, path, c.service(), into)
	switch {
	case is(err, hidden...):
		return fmt.Errorf("%s: %w", what, ErrHidden)
	case is(err, http.StatusNotFound):
		return fmt.Errorf("%s: %w", what, fs.ErrNotExist)
	case is(err, http.StatusUnauthorized):
		return &Trouble{What: what, Away: true, Err: errors.New("it refuses the service token")}
	case is(err, http.StatusForbidden):
		return &Trouble{What: what, Err: errors.New("the service token may not ask this")}
	}
	return err
}

// Reach asks GitLab about the service token. It returns an error if GitLab does not
// answer, whatever the answer is.
func (c *Client) Reach(ctx context.Context) error {
	var token Token
	err := c.get(ctx, "the service token", "/api/v4/personal_access_tokens/self", c.service(), &token)
	err = complete("the service token", err, token.ID > 0)
	if trouble := (*Trouble)(nil); errors.As(err, &trouble) {
		return err
	}
	return nil
}

// get sends a request and reads the JSON response. It uses the transport without an
// http.Client, which would follow redirects and repeat the URL in errors. Its error is a
// statusError or a Trouble.
func (c *Client) get(ctx context.Context, what, path string, as login, into any) error {
	trouble := func(err error) error { return &Trouble{What: what, Away: true, Err: err} }
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return &Trouble{What: what, Err: errors.New("the URL is invalid")}
	}
	request.Header.Set(as.header, as.value)
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "caddy-dependency-proxy")
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return trouble(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return trouble(err)
	case response.StatusCode == http.StatusTooManyRequests:
		return &Trouble{what, retryAfter(response.Header), true, ErrLimited}
	case len(body) > maxAnswer:
		return trouble(fmt.Errorf("the response is longer than %d bytes", maxAnswer))
	}
	return read(what, response, body, into)
}

// read reads a response. A refusal counts only if GitLab itself has sent it: a load
// balancer in front of an instance that is down sends pages of its own.
func read(what string, response *http.Response, body []byte, into any) error {
	mediaType, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	status := response.StatusCode
	switch {
	case status >= 300 && status < 400:
		return &Trouble{What: what, Away: true, Err: errors.New("it redirects; write the URL that it redirects to")}
	case mediaType == "application/json" && (status == 401 || status == 403 || status == 404):
		return statusError(status)
	case status != http.StatusOK:
		return &Trouble{what, retryAfter(response.Header), !fromOddRequest(status), errors.New("status " + strconv.Itoa(status))}
	}
	if err := json.Unmarshal(body, into); err != nil {
		return &Trouble{What: what, Away: true, Err: errors.New("the response is not valid JSON")}
	}
	return nil
}

// fromOddRequest reports whether a status may be due to an odd credential in the request,
// so that it says nothing about other questions.
func fromOddRequest(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong,
		http.StatusUnprocessableEntity, http.StatusRequestHeaderFieldsTooLarge:
		return true
	}
	return false
}

// retryAfter returns the Retry-After header, which GitLab sends in seconds, or 0.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(h.Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}
