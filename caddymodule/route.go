package caddymodule

import (
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// kind is the kind of resource that a path names.
type kind int

const (
	notOurs kind = iota
	pingKind
	authKind
	keysKind
	manifestKind
	blobKind
	tagsKind
	referrersKind
	pageKind     // the page of a group
	sitePageKind // the page of the site
	purgeKind
	tokensKind
	healthKind
	peerKind    // other nodes; see [peers.ProbePath]
	unknownKind // below /v2/, but not a resource of this registry
)

// recorded has the kinds by which records of requests name those of routes.
var recorded = [unknownKind + 1]record.Kind{
	pingKind: record.Ping, authKind: record.Token, manifestKind: record.Manifest, blobKind: record.Blob,
	tagsKind: record.Tags, referrersKind: record.Referrers,
}

// infix separates the group from the image.
const infix = directory.Infix

// maxName is the length limit of the repository names of clients, in characters.
// Such a name consists of the group, the infix and the image.
const maxName = 255

// route is the parsed and validated path of a request.
type route struct {
	kind   kind
	group  string
	image  string
	tag    string        // of a manifest that is requested by its tag
	digest digest.Digest // of a manifest or a blob, or the subject of referrers
	token  string        // ID of an access token of the group
	peer   string        // process of the node that asks, see [Handler.repository]
}

// name returns the repository name that the client uses.
func (rt *route) name() string { return rt.group + infix + rt.image }

// parseRoute parses the escaped path of a request, so that an encoding cannot hide
// the characters of a name. It returns an error only for paths of the proxy.
func parseRoute(path string) (route, *apiError) {
	switch path {
	case "/v2", "/v2/":
		return route{kind: pingKind}, nil
	case "/jwt/auth":
		return route{kind: authKind}, nil
	case "/jwt/keys":
		return route{kind: keysKind}, nil
	case "/dependency_proxy/health", "/dependency_proxy/health/":
		return route{kind: healthKind}, nil
	case "/dependency_proxy", "/dependency_proxy/":
		return route{kind: sitePageKind}, nil
	}
	if strings.HasPrefix(path, peers.ProbePath) {
		return route{kind: peerKind}, nil // what it asks for is in its token
	}
	if strings.HasPrefix(path, "/v2/") {
		// With the slash before it, an empty group is followed by the infix too.
		group, rest, ok := strings.Cut(path[len("/v2"):], infix)
		if !ok {
			return route{kind: unknownKind}, nil
		}
		return parseResource(strings.TrimPrefix(group, "/"), rest)
	}
	// Clients append the path of the API to that of a mirror.
	if group, rest, ok := strings.Cut(path, infix+"v2"); ok {
		switch {
		case rest == "" || rest == "/":
			rt := route{kind: pingKind}
			if group = strings.TrimPrefix(group, "/"); reference.ValidRepository(group) && len(group) <= maxName {
				rt.group = group
			}
			return rt, nil
		case rest[0] == '/':
			return parseResource(strings.TrimPrefix(group, "/"), rest[1:])
		}
	}
	return parseGroupRoute(path), nil
}

// parseGroupRoute parses the paths of a group that do not name an image:
//
//	/GROUP/dependency_proxy              its page
//	/GROUP/dependency_proxy/cache        its cached content
//	/GROUP/dependency_proxy/tokens[/ID]  its access tokens
func parseGroupRoute(path string) route {
	group, rest, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/dependency_proxy")
	if !ok || !reference.ValidRepository(group) || len(group) > maxName {
		return route{}
	}
	rt := route{group: group}
	id, isToken := strings.CutPrefix(rest, "/tokens/")
	switch {
	case rest == "" || rest == "/":
		rt.kind = pageKind
	case rest == "/cache":
		rt.kind = purgeKind
	case rest == "/tokens":
		rt.kind = tokensKind
	case isToken && id != "" && !strings.ContainsAny(id, "/%"):
		rt.kind, rt.token = tokensKind, id
	default:
		return route{}
	}
	return rt
}

// isPage reports whether the path is that of the page of the site, or one of
// [parseGroupRoute].
func (rt *route) isPage() bool {
	return rt.kind == pageKind || rt.kind == purgeKind || rt.kind == tokensKind || rt.kind == sitePageKind
}

// parseResource parses IMAGE/KIND/REFERENCE.
func parseResource(group, rest string) (route, *apiError) {
	rt := route{group: group}
	rest, ref := cutLast(rest)
	rt.image, rest = cutLast(rest)
	switch rest {
	case "manifests":
		rt.kind = manifestKind
	case "blobs":
		rt.kind = blobKind
	case "referrers":
		rt.kind = referrersKind
	case "tags":
		rt.kind = tagsKind
	default:
		rt.kind = unknownKind
	}
	valid := len(rt.group)+len(infix)+len(rt.image) <= maxName && reference.ValidRepository(rt.group) && reference.ValidRepository(rt.image)
	if rt.kind == unknownKind {
		if !valid {
			rt.group, rt.image = "", "" // the challenge and the log show valid names only
		}
		return rt, nil
	}
	if !valid {
		return route{}, refuse(nameInvalid, "invalid repository name; use lower-case letters and digits, separated by . _ __ - or /, and at most %d characters", maxName)
	}
	return rt, rt.parseReference(ref)
}

func (rt *route) parseReference(ref string) *apiError {
	switch {
	case rt.kind == tagsKind:
		if ref != "list" {
			rt.kind = unknownKind
		}
		return nil
	case rt.kind == manifestKind && !strings.ContainsAny(ref, ":%"):
		if !reference.ValidTag(ref) {
			return refuse(tagInvalid, "invalid tag; use letters, digits, . _ and -, and at most 128 characters")
		}
		rt.tag = ref
		return nil
	}
	// Some clients escape the colon, which RFC 3986 allows.
	if algorithm, rest, ok := strings.Cut(ref, "%"); ok && strings.HasPrefix(strings.ToUpper(rest), "3A") {
		ref = algorithm + ":" + rest[2:]
	}
	d, err := reference.ParseDigest(ref)
	if err != nil {
		return refuse(digestInvalid, "invalid digest; use sha256: and 64 lower-case hexadecimal digits, or sha512: and 128")
	}
	rt.digest = d
	return nil
}

// cutLast splits a string at its last slash. Without a slash, before is empty.
func cutLast(s string) (before, after string) {
	i := strings.LastIndexByte(s, '/')
	return s[:max(i, 0)], s[i+1:]
}

// reference returns the tag or the digest that the client requests.
func (rt *route) reference() string {
	if rt.tag != "" {
		return rt.tag
	}
	return rt.digest.String()
}

// methods returns the methods that a path supports.
func (rt *route) methods() []string {
	switch {
	case rt.kind == authKind, rt.kind == tokensKind && rt.token == "":
		return []string{http.MethodGet, http.MethodPost}
	case rt.kind == purgeKind, rt.kind == tokensKind:
		return []string{http.MethodDelete}
	}
	return []string{http.MethodGet, http.MethodHead}
}

// requiredRole returns the role that a path of a group requires.
func (rt *route) requiredRole() directory.Role {
	switch rt.kind {
	case tokensKind:
		return directory.Owner
	case purgeKind:
		return directory.Maintainer
	}
	return directory.Member
}

// checkMethod rejects methods that the path does not support.
func checkMethod(rt route, method string) *apiError {
	allowed := rt.methods()
	if slices.Contains(allowed, method) {
		return nil
	}
	e := refuse(unsupported, "method %s is not supported; use %s", method, strings.Join(allowed, " or "))
	if rt.kind != authKind && rt.kind != keysKind && rt.kind != healthKind && rt.kind != peerKind && !rt.isPage() {
		e = refuse(unsupported, "this registry is a pull-through cache: images can be pulled from it, but not pushed to it or deleted from it")
	}
	e.allow = strings.Join(allowed, ", ")
	return e
}

// maxGroups is the greatest number of groups that a request may name. Clients name
// one.
const maxGroups = 4

// requestedGroups returns the groups that a request for content, or the scopes of a
// request for a token, name: at most maxGroups. It reports whether these are all.
// Scopes of other registries name none: the client of a mirror sends that of the
// mirrored image too. If it sends no other, because the ping of the mirror is all
// that it has seen, the realm names the group; see [exchange.challenge].
func requestedGroups(r *http.Request) (groups []string, all bool) {
	if r == nil {
		return nil, true
	}
	rt, _ := parseRoute(r.URL.EscapedPath())
	switch {
	case reference.ValidRepository(rt.group):
		return []string{rt.group}, true
	case rt.kind != authKind:
		return nil, true
	}
	query, all := r.URL.Query(), true
	scopes := tokenissuer.ParseScopes(append(query["scope"], r.PostForm["scope"]...))
	for _, scope := range scopes {
		group, _, ours := strings.Cut(scope.Name, infix)
		switch {
		case !ours || slices.Contains(groups, group):
		case len(groups) < maxGroups && reference.ValidRepository(group):
			groups = append(groups, group)
		default:
			all = false
		}
	}
	if group := query.Get(mirrorGroup); len(scopes) > 0 && len(groups) == 0 && reference.ValidRepository(group) {
		groups = []string{group}
	}
	return groups, all
}
