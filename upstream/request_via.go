package upstream

import (
	"context"
	"crypto/rand"
	"net/http"
	"slices"
	"strings"
)

const (
	// viaPrefix begins the pseudonym of each client in Via.
	viaPrefix = "dependency-proxy-"

	// maxVia is the number of proxies like this one, the last ones that a request has
	// passed, whose pseudonyms are read and passed on. A request that leads around more
	// of them is not recognized. It is not refused either, because any client can send
	// pseudonyms, and others may wait for the answer to the same question.
	maxVia = 16
)

// newPseudonym returns a pseudonym for Via that no other client has, in this or
// another process. It tells nothing about either.
func newPseudonym() string { return viaPrefix + strings.ToLower(rand.Text()) }

type viaKey struct{}

// WithVia returns a context for requests that are made on behalf of a request with
// the given header. They continue its Via (RFC 9110, section 7.6.3), as far as
// proxies like this one have written it, so that each of them recognizes a request
// that comes back to it.
func WithVia(ctx context.Context, header http.Header) context.Context {
	passed := pseudonyms(header)
	if len(passed) == 0 {
		return ctx
	}
	return context.WithValue(ctx, viaKey{}, passed)
}

// SetVia sets the Via of a request that is made with ctx to another process of the same
// cluster, which asks the upstream in place of this one. It continues the Via as WithVia
// does.
func SetVia(ctx context.Context, header http.Header) {
	if passed, ok := ctx.Value(viaKey{}).([]string); ok {
		header.Set("Via", "1.1 "+strings.Join(passed, ", 1.1 "))
	}
}

// Passed returns how many proxies like this one a request has passed on whose behalf
// requests are made with ctx, at most 16; see [WithVia].
func Passed(ctx context.Context) int {
	passed, _ := ctx.Value(viaKey{}).([]string)
	return len(passed)
}

// CheckVia returns an error of kind [Loop] if a request with the given header was sent
// to one of the addresses by this client, so that the upstream would be asked for the
// same again and again.
func (m *Mirrors) CheckVia(header http.Header) error {
	passed := pseudonyms(header)
	for _, r := range m.registries {
		if slices.Contains(passed, r.pseudonym) {
			return &Error{Kind: Loop, upstream: r.name, message: "a request to it has come back to this proxy"}
		}
	}
	return nil
}

// via returns the Via header of requests that are made with ctx.
func (r *Registry) via(ctx context.Context) string {
	value := "1.1 " + r.pseudonym
	if passed, ok := ctx.Value(viaKey{}).([]string); ok {
		value = "1.1 " + strings.Join(passed, ", 1.1 ") + ", " + value
	}
	return value
}

// pseudonyms returns the last pseudonyms of clients like this one in a Via header, at
// most maxVia.
func pseudonyms(header http.Header) (found []string) {
	for _, value := range header["Via"] {
		for entry := range strings.SplitSeq(value, ",") {
			fields := strings.Fields(entry) // protocol, pseudonym and maybe a comment
			if len(fields) >= 2 && isPseudonym(fields[1]) {
				found = append(found, fields[1])
			}
		}
	}
	return found[max(0, len(found)-maxVia):]
}

func isPseudonym(text string) bool {
	name, ok := strings.CutPrefix(text, viaPrefix)
	return ok && len(name) >= 26 && len(name) <= 32 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// reportsLoop reports whether a response says that the registry leads back to a proxy
// that the request has passed. Such a proxy sends 502 with a Cache-Status (RFC 9211),
// which a response to HEAD has too; others send 508 (RFC 5842, section 7.2).
func reportsLoop(resp *http.Response) bool {
	if resp.StatusCode == http.StatusLoopDetected {
		return true
	}
	for _, value := range resp.Header["Cache-Status"] {
		if resp.StatusCode == http.StatusBadGateway && strings.Contains(value, LoopStatus) {
			return true
		}
	}
	return false
}

// LoopStatus is the Cache-Status of an error response whose cause has the kind [Loop].
const LoopStatus = "dependency-proxy; detail=loop"
