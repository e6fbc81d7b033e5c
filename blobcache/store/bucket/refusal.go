package bucket

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"
)

// isRefused reports whether the object store refused the credentials of a request.
func isRefused(err error) bool {
	if err == nil {
		return false
	}
	answer := minio.ToErrorResponse(err)
	return answer.StatusCode == http.StatusForbidden || answer.StatusCode == http.StatusUnauthorized ||
		answer.Code == "ExpiredToken" || answer.Code == "InvalidToken"
}

// generalCodes are the codes of errors that concern the bucket or the credentials, although
// their status may be that of an error about a single object.
var generalCodes = map[string]bool{
	"NoSuchBucket": true, "ExpiredToken": true, "InvalidToken": true, "TokenRefreshRequired": true,
	"PermanentRedirect": true, "AuthorizationHeaderMalformed": true, // another endpoint, another region
}

// concernsBucket reports whether an error is to be expected of other requests as well.
func concernsBucket(err error) bool {
	if errors.As(err, new(objectError)) {
		return false
	}
	answer := &refusal{}
	if !errors.As(err, &answer) {
		return !errors.Is(err, fs.ErrNotExist)
	}
	switch {
	case generalCodes[answer.code]:
		return true
	case answer.status == http.StatusTooManyRequests, answer.status == http.StatusRequestTimeout,
		answer.status == http.StatusForbidden, answer.status == http.StatusUnauthorized:
		return true
	}
	return answer.status >= 500
}

// objectError is an error that has nothing to do with the bucket.
type objectError struct{ error }

func (e objectError) Unwrap() error { return e.error }

// isDenied reports whether the bucket denies access, perhaps to one object only. Wrong
// credentials are another matter.
func isDenied(err error) bool {
	answer := &refusal{}
	return errors.As(err, &answer) && answer.status == http.StatusForbidden && answer.code == "AccessDenied"
}

// refusal is an error of the object store.
type refusal struct {
	status  int
	code    string
	message string
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("the bucket answered %d %s", r.status, r.code)
	if r.message != "" {
		text += ": " + r.message
	}
	switch {
	case r.code == "NoSuchBucket":
		text += "; create the bucket, or correct `bucket` and `path_style`"
	case r.code == "PermanentRedirect", r.code == "AuthorizationHeaderMalformed":
		text += "; correct `endpoint` and `region`"
	case r.code == "ExpiredToken", r.code == "InvalidToken", r.code == "TokenRefreshRequired":
		text += "; check the credentials"
	case r.code == "RequestTimeTooSkewed":
		text += "; correct the clock of this machine"
	case r.status == http.StatusForbidden || r.status == http.StatusUnauthorized:
		text += "; check the credentials and what they permit"
	case r.status == http.StatusInsufficientStorage:
		text += "; make room in the bucket, or set its max_size"
	}
	return text
}

// Is makes a refusal for an absent object an fs.ErrNotExist.
func (r *refusal) Is(target error) bool {
	return target == fs.ErrNotExist && r.status == http.StatusNotFound && r.code != "NoSuchBucket"
}

// maxMessage is the length of the longest message of an object store that is reported.
const maxMessage = 200

// explain returns an error without what its text should not have: URLs, whose queries
// may have signatures and tokens, and long texts of the object store.
func explain(err error) error {
	if err == nil {
		return nil
	}
	if sent := (*url.Error)(nil); errors.As(err, &sent) {
		host := "the object store"
		if u, perr := url.Parse(sent.URL); perr == nil && u.Host != "" {
			host = u.Host
		}
		return fmt.Errorf("%s %s: %w", strings.ToUpper(sent.Op), host, sent.Err)
	}
	answer := minio.ErrorResponse{}
	if !errors.As(err, &answer) || answer.StatusCode == 0 {
		return err
	}
	message := answer.Message
	if len(message) > maxMessage {
		message = message[:maxMessage] + "…"
	}
	return &refusal{status: answer.StatusCode, code: answer.Code, message: strings.Join(strings.Fields(message), " ")}
}
