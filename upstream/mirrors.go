package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/url"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/mediatype"
)

// Mirrors is a client for an upstream with one or more addresses. It asks them in
// order: another one is asked if an address cannot answer, because no connection
// is made, no response header arrives in time, or the response is 5xx or 429.
//
// An address is down if it fails three times in a row: there is no connection, no
// response header arrives in time, or the response is 502, 503 or 504. If such a response
// is to a HEAD, a GET has to confirm it. The failures must be about at least two
// repositories, or about /v2/; if those of a single address are all about one repository,
// the address is asked for /v2/. Nothing else counts: an address is not down because it
// is slow, does not have or refuses something, or answers 500. An address that is down is
// tried again after a pause of 1 s, which doubles with each failure up to 1 min. One
// request tries it at a time, after a request for /v2/; others fail at once meanwhile,
// with [Error.Held]. A 429 causes such a pause at once. It lasts at least as long as the
// Retry-After of the address, up to 10 min. If the 429 is about a limit of pulls
// ([ratelimit.Pulls]), a single address is asked for everything but pulls meanwhile.
// Transfers in progress go on.
//
// If there are several addresses, each failure causes such a pause, so that the addresses
// that can answer are asked first. If all pause, the one whose pause ends first is asked,
// unless it is down or has sent Retry-After.
//
// The answer of the first address is final, whatever it is. A later address may be an
// incomplete copy: its answer that it does not have an image, or denies access to it, is
// final only if no earlier address has failed. If one has, earlier addresses that pause
// after a 5xx are asked all the same, because the 5xx may have been about another
// repository. If no address answers, the error is that of the first one, and its text
// names those of the others.
//
// Mirrors is safe for concurrent use and needs no closing. The methods are
// those of [Registry], with the same time limits for all addresses together, and
// return errors that wrap an [*Error] where those of Registry are one.
type Mirrors struct{ registries []*Registry }

// NewMirrors returns a client for the addresses of the given registries, which must
// have the same content. They should have the same Config.Name.
func NewMirrors(first *Registry, others ...*Registry) *Mirrors {
	return &Mirrors{append([]*Registry{first}, others...)}
}

// ResolveManifest is [Registry.ResolveManifest] at the first address that answers.
func (m *Mirrors) ResolveManifest(ctx context.Context, repository, ref string) (Manifest, error) {
	return ask(ctx, m, func(ctx context.Context, r *Registry) (Manifest, error) {
		return r.ResolveManifest(ctx, repository, ref)
	})
}

// Manifest is [Registry.Manifest] at the first address that answers.
func (m *Mirrors) Manifest(ctx context.Context, repository, ref string) (Manifest, error) {
	return ask(ctx, m, func(ctx context.Context, r *Registry) (Manifest, error) {
		return r.Manifest(ctx, repository, ref)
	})
}

// ResolveTag is [Registry.ResolveTag] at the first address that answers.
func (m *Mirrors) ResolveTag(ctx context.Context, repository, tag string, accept mediatype.Accept) (Manifest, error) {
	return ask(ctx, m, func(ctx context.Context, r *Registry) (Manifest, error) {
		return r.ResolveTag(ctx, repository, tag, accept)
	})
}

// HeadTag is [Registry.HeadTag] at the first address that answers.
func (m *Mirrors) HeadTag(ctx context.Context, repository, tag string, accept mediatype.Accept) (Manifest, error) {
	return ask(ctx, m, func(ctx context.Context, r *Registry) (Manifest, error) {
		return r.HeadTag(ctx, repository, tag, accept)
	})
}

// RefetchTag is [Registry.RefetchTag] at the first address that answers.
func (m *Mirrors) RefetchTag(ctx context.Context, repository, tag string, accept mediatype.Accept) (Manifest, error) {
	return ask(ctx, m, func(ctx context.Context, r *Registry) (Manifest, error) {
		return r.RefetchTag(ctx, repository, tag, accept)
	})
}

// StatBlob is [Registry.StatBlob] at the first address that answers.
func (m *Mirrors) StatBlob(ctx context.Context, repository string, d digest.Digest, known int64) (int64, error) {
	return ask(ctx, m, func(ctx context.Context, r *Registry) (int64, error) {
		return r.StatBlob(ctx, repository, d, known)
	})
}

// Referrers is [Registry.Referrers] at the first address that answers.
func (m *Mirrors) Referrers(ctx context.Context, repository string, d digest.Digest, artifactType string) (Page, error) {
	return ask(ctx, m, func(ctx context.Context, r *Registry) (Page, error) {
		return r.Referrers(ctx, repository, d, artifactType)
	})
}

// AddressParameter is the query parameter of [Page.Next] that [Mirrors.Tags] adds to
// tell which address the page is from. It is not sent to a registry.
const AddressParameter = "address"

// Tags is [Registry.Tags] at the first address that answers. A page that is selected
// by something other than the name of the last tag is asked of the address that the
// page before it is from, which [AddressParameter] tells; without it, of the first
// one. The error is of kind [Invalid] if the upstream has no such address any more.
func (m *Mirrors) Tags(ctx context.Context, repository string, query url.Values) (Page, error) {
	issuer := query.Get(AddressParameter)
	if query.Has(AddressParameter) {
		query = maps.Clone(query)
		query.Del(AddressParameter)
	}
	asked := m
	switch {
	case issuer == "" && isOpaque(query):
		asked = &Mirrors{m.registries[:1]} // a cursor from when there was one address
	case issuer != "":
		i := slices.IndexFunc(m.registries, func(r *Registry) bool { return r.addressKey() == issuer })
		if i < 0 {
			return Page{}, &Error{Kind: Invalid, upstream: m.registries[0].name, repository: repository,
				message: "tag list: the page is from an address that the upstream does not have any more"}
		}
		asked = &Mirrors{m.registries[i : i+1]}
	}
	return ask(ctx, asked, func(ctx context.Context, r *Registry) (Page, error) {
		page, err := r.Tags(ctx, repository, query)
		if len(m.registries) > 1 && isOpaque(page.Next) {
			page.Next = maps.Clone(page.Next)
			page.Next.Set(AddressParameter, r.addressKey())
		}
		return page, err
	})
}

// isOpaque reports whether a query selects a page by something other than a number
// and a tag, which mean the same at each address.
func isOpaque(query url.Values) bool {
	for name := range query {
		if name != "n" && name != "last" {
			return true
		}
	}
	return false
}

// addressKey returns a text that identifies the address of the registry among those
// of an upstream.
func (r *Registry) addressKey() string {
	sum := sha256.Sum256([]byte(r.endpoint.String()))
	return hex.EncodeToString(sum[:6])
}

// Blob is [Registry.Blob] at the first address that answers. If the transfer breaks
// off or stalls, the address pauses, so that a caller that asks for the rest gets
// it from another one. With several addresses, entity tags are neither returned
// nor sent: those of different addresses differ, although the digest makes the
// content the same.
func (m *Mirrors) Blob(ctx context.Context, repository string, d digest.Digest, offset, length int64, etag string) (*Body, error) {
	return inOrder(ctx, m, func(a *attempt) (*Body, error) {
		if a.only {
			return a.registry.Blob(ctx, repository, d, offset, length, etag)
		}
		return a.blob(ctx, repository, d, offset, length)
	})
}

// NoteSlow records that a caller has given up waiting for an answer before the time limit
// of the question.
func (m *Mirrors) NoteSlow() {
	for _, r := range m.registries {
		r.pause.NoteSlow()
	}
}

// IsSlow reports whether no address has answered anything since NoteSlow was called, so
// that there is little use in waiting.
func (m *Mirrors) IsSlow() bool {
	return !slices.ContainsFunc(m.registries, func(r *Registry) bool { return !r.pause.IsSlow() })
}

// ask performs an operation at one address after another until one answers. The result
// must be complete when question returns, unlike that of [Mirrors.Blob].
func ask[T any](ctx context.Context, m *Mirrors, question func(context.Context, *Registry) (T, error)) (T, error) {
	return inOrder(ctx, m, func(a *attempt) (T, error) {
		if a.only {
			return question(ctx, a.registry)
		}
		ctx, cancel := context.WithTimeoutCause(ctx, a.limit, timeoutError(a.limit))
		defer cancel()
		return question(ctx, a.registry)
	})
}
