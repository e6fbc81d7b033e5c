package caddymodule

import (
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// kind is what a request asks for.
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
	pageKind // of a group, as are the next two
	purgeKind
	tokensKind
	unknownKind // under /v2/, yet not of this proxy's shape
)

// infix splits the group from the image.
const infix = directory.Infix

// maxName is the longest repository name that clients accept, group, infix and
// image together.
const maxName = 255

// route is the path of a request, read once and checked.
type route struct {
	kind   kind
	group  string
	image  string
	tag    string        // of a manifest, unless it is asked for by digest
	digest digest.Digest // of a manifest, blob, or the subject of referrers
	token  string        // the id of one of a group's tokens
}

// name is the repository as the client calls it.
func (rt *route) name() string { return rt.group + infix + rt.image }

// parseRoute reads the escaped path, so that no encoding hides what a name
// is made of. An error is the answer; paths that are not the proxy's own have
// none.
func parseRoute(path string) (route, *apiError) {
	switch path {
	case "/v2", "/v2/":
		return route{kind: pingKind}, nil
	case "/jwt/auth":
		return route{kind: authKind}, nil
	case "/jwt/keys":
		return route{kind: keysKind}, nil
	}
	if rest, ok := strings.CutPrefix(path, "/v2/"); ok {
		// The slash before the group lets the infix match a missing group.
		group, rest, ok := strings.Cut("/"+rest, infix)
		if !ok {
			return route{kind: unknownKind}, nil
		}
		return parseResource(strings.TrimPrefix(group, "/"), rest)
	}
	// Mirrors that are configured with a path append the API's to it.
	if group, rest, ok := strings.Cut(path, infix+"v2"); ok {
		switch {
		case rest == "" || rest == "/":
			return route{kind: pingKind}, nil
		case rest[0] == '/':
			return parseResource(strings.TrimPrefix(group, "/"), rest[1:])
		}
	}
	return parseGroupRoute(path), nil
}

// parseGroupRoute reads the paths that are about a group and not about images:
//
//	/GROUP/dependency_proxy            its page
//	/GROUP/dependency_proxy/cache      what is cached for it
//	/GROUP/dependency_proxy/tokens[/ID]  its tokens
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

// aboutGroup tells a group's own paths from those of a registry.
func (rt *route) aboutGroup() bool {
	return rt.kind == pageKind || rt.kind == purgeKind || rt.kind == tokensKind
}

// parseResource reads IMAGE/KIND/REFERENCE.
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
			rt.group, rt.image = "", "" // they go into the challenge and the log
		}
		return rt, nil
	}
	if !valid {
		return route{}, refuse(nameInvalid, "the repository name is not valid: lower-case letters and digits, separated by . _ __ - or /, %d characters at most", maxName)
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
			return refuse(tagInvalid, "the tag is not valid: letters, digits, . _ and -, 128 characters at most")
		}
		rt.tag = ref
		return nil
	}
	// Some clients escape the colon, which RFC 3986 allows and nothing hides behind.
	if algorithm, rest, ok := strings.Cut(ref, "%"); ok && strings.HasPrefix(strings.ToUpper(rest), "3A") {
		ref = algorithm + ":" + rest[2:]
	}
	d, err := reference.ParseDigest(ref)
	if err != nil {
		return refuse(digestInvalid, "the digest is not valid: sha256: and 64 lower-case hexadecimal digits, or sha512: and 128")
	}
	rt.digest = d
	return nil
}

// cutLast splits at the last slash; without one, all of it is the last part.
func cutLast(s string) (before, after string) {
	i := strings.LastIndexByte(s, '/')
	return s[:max(i, 0)], s[i+1:]
}

// reference is how the client named what it wants.
func (rt *route) reference() string {
	if rt.tag != "" {
		return rt.tag
	}
	return rt.digest.String()
}

// methods are what a path answers to.
func (rt *route) methods() []string {
	switch {
	case rt.kind == authKind, rt.kind == tokensKind && rt.token == "":
		return []string{http.MethodGet, http.MethodPost}
	case rt.kind == purgeKind, rt.kind == tokensKind:
		return []string{http.MethodDelete}
	}
	return []string{http.MethodGet, http.MethodHead}
}

// checkMethod refuses what would change a registry.
func checkMethod(rt route, method string) *apiError {
	allowed := rt.methods()
	if slices.Contains(allowed, method) {
		return nil
	}
	e := refuse(unsupported, "the method %s is not supported here", method)
	if rt.kind != authKind && rt.kind != keysKind && !rt.aboutGroup() {
		e = refuse(unsupported, "this registry is a pull-through cache: images can be pulled from it, but not pushed to it nor deleted")
	}
	e.allow = strings.Join(allowed, ", ")
	return e
}

// askedGroups are the groups that a request for a token, or for content, is about.
func askedGroups(r *http.Request) (groups []string) {
	if r == nil {
		return nil
	}
	if rt, err := parseRoute(r.URL.EscapedPath()); err == nil && reference.ValidRepository(rt.group) {
		return []string{rt.group}
	}
	scopes := append(r.URL.Query()["scope"], r.PostForm["scope"]...)
	for _, scope := range tokenissuer.ParseScopes(scopes) {
		if group, _, ok := strings.Cut(scope.Name, infix); ok && reference.ValidRepository(group) && len(groups) < 4 {
			groups = append(groups, group)
		}
	}
	return groups
}
