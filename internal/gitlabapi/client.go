// Package gitlabapi asks a GitLab instance's REST API the few things that a
// registry needs to know: whose a token is and whether it is still good, whether
// a user is active, what a group is and who its members are.
//
// [Client] is the API: one GET for each question, without redirects, with a time
// limit and a size limit. It tells a definite no (fs.ErrNotExist, [ErrRefused],
// [ErrForbidden], [ErrHidden]) from [Trouble], which is everything that leaves
// the question open. [Memory] remembers answers, the negative ones too, so that
// GitLab is asked seldom and by one at a time, and so that what was known a
// moment ago still holds while GitLab is away. GitLab 15.5 or later.
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
	"strconv"
	"strings"
	"time"
)

const (
	// Timeout bounds one question, the body of the answer included.
	Timeout = 10 * time.Second
	// maxAnswer is how much of an answer is read, in bytes.
	maxAnswer = 1 << 20
)

var (
	// ErrRefused means that GitLab does not accept the user's credential.
	ErrRefused = errors.New("GitLab refuses the token")
	// ErrForbidden means that the credential is good and its owner is kept out,
	// as when the account is blocked.
	ErrForbidden = errors.New("GitLab forbids the token's owner the use of its API")
	// ErrHidden means that the service token may not see the answer.
	ErrHidden = errors.New("the service token may not see it")
)

// Trouble is an error that leaves a question open: GitLab is away, in a hurry, or
// makes no sense.
type Trouble struct {
	// What was asked.
	What string
	// RetryAfter is how long GitLab wants to be left alone; 0 if it did not say.
	RetryAfter time.Duration
	// Away means that other questions of the kind would fare no better now.
	Away bool

	Err error
}

// Error implements [error]. It holds no token, and no URL with one.
func (t *Trouble) Error() string { return fmt.Sprintf("asking GitLab for %s: %v", t.What, t.Err) }

// Unwrap returns the cause.
func (t *Trouble) Unwrap() error { return t.Err }

// Client asks one instance. Its methods may be called concurrently.
type Client struct {
	base      string
	token     string
	transport http.RoundTripper
	timeout   time.Duration
}

// New returns a client of the instance at a URL, which may have a path. The
// service token is sent to that URL's host alone.
func New(instance *url.URL, token string, transport http.RoundTripper) *Client {
	return &Client{strings.TrimSuffix(instance.String(), "/"), token, transport, Timeout}
}

// login is the header by which a question is authenticated.
type login struct{ header, value string }

func (c *Client) service() login { return login{"PRIVATE-TOKEN", c.token} }

// statusError is an answer other than 200 that GitLab itself has given.
type statusError int

func (s statusError) Error() string { return "status " + strconv.Itoa(int(s)) }

// errRefusesService is for the operator.
var errRefusesService = errors.New("it refuses the service token")

// is tells whether an error is one of these answers.
func is(err error, statuses ...int) bool {
	var s statusError
	if errors.As(err, &s) {
		for _, status := range statuses {
			if int(s) == status {
				return true
			}
		}
	}
	return false
}

// ask asks with the service token. What GitLab does not have is fs.ErrNotExist;
// that it does not like the token leaves the question open.
func (c *Client) ask(ctx context.Context, what, path string, into any) error {
	err := c.get(ctx, what, path, c.service(), into)
	switch {
	case is(err, http.StatusNotFound):
		return fmt.Errorf("%s: %w", what, fs.ErrNotExist)
	case is(err, http.StatusUnauthorized):
		return &Trouble{What: what, Away: true, Err: errRefusesService}
	case is(err, http.StatusForbidden):
		return &Trouble{What: what, Err: errors.New("the service token may not ask this")}
	}
	return err
}

// Reach asks GitLab about the service token, and returns an error if GitLab does not
// answer.
func (c *Client) Reach(ctx context.Context) error {
	var token Token
	err := c.get(ctx, "the service token", "/api/v4/personal_access_tokens/self", c.service(), &token)
	err = complete("the service token", err, token.ID > 0)
	if trouble := (*Trouble)(nil); errors.As(err, &trouble) {
		return err
	}
	return nil
}

// get sends one request and reads a JSON answer. The transport is used without an
// http.Client, so that no redirect is followed and no error repeats a URL. Its
// error is a statusError, or Trouble.
func (c *Client) get(ctx context.Context, what, path string, as login, into any) error {
	trouble := func(err error) error { return &Trouble{What: what, Away: true, Err: err} }
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return &Trouble{What: what, Err: errors.New("the URL cannot be used")}
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
		return &Trouble{what, retryAfter(response.Header), true, errors.New("its rate limit is reached")}
	case len(body) > maxAnswer:
		return trouble(fmt.Errorf("the answer is longer than %d bytes", maxAnswer))
	}
	return read(what, response, body, into)
}

// read makes something of an answer. A no counts only if GitLab has said it: a
// balancer in front of an instance that is down has pages of its own.
func read(what string, response *http.Response, body []byte, into any) error {
	mediaType, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	status := response.StatusCode
	switch {
	case status >= 300 && status < 400:
		return &Trouble{What: what, Away: true, Err: errors.New("it redirects elsewhere; write the URL that it redirects to")}
	case mediaType == "application/json" && (status == 401 || status == 403 || status == 404):
		return statusError(status)
	case status != http.StatusOK:
		return &Trouble{what, retryAfter(response.Header), !fromOddRequest(status), errors.New("status " + strconv.Itoa(status))}
	}
	if err := json.Unmarshal(body, into); err != nil {
		return &Trouble{What: what, Away: true, Err: errors.New("the answer is not the JSON that it should be")}
	}
	return nil
}

// fromOddRequest tells the statuses that somebody's odd credential may be the
// reason for, which say nothing about other questions.
func fromOddRequest(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong,
		http.StatusUnprocessableEntity, http.StatusRequestHeaderFieldsTooLarge:
		return true
	}
	return false
}

// retryAfter reads the header of that name as GitLab writes it, in seconds.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(h.Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}
