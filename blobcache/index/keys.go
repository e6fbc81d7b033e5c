package index

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const linksFolder = "links"

func linkKey(scope string, d digest.Digest) string {
	return linksFolder + "/" + scope + "/_/" + d.Algorithm().String() + "/" + d.Encoded()
}

// parseLinkKey is the reverse of linkKey.
func parseLinkKey(key string) (scope string, d digest.Digest, ok bool) {
	rest, hex, ok1 := cutLast(key, "/")
	rest, algorithm, ok2 := cutLast(rest, "/")
	scope, ok3 := strings.CutPrefix(rest, linksFolder+"/")
	scope, ok4 := strings.CutSuffix(scope, "/_")
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return "", "", false
	}
	d = digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	return scope, d, d.Validate() == nil
}

func cutLast(s, separator string) (before, after string, ok bool) {
	i := strings.LastIndex(s, separator)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(separator):], true
}

// ContentOf returns the content of the link or the delivery that is stored under a key.
func ContentOf(key string) (d digest.Digest, ok bool) {
	switch {
	case strings.HasPrefix(key, linksFolder+"/"):
		_, d, ok = parseLinkKey(key)
	case strings.HasPrefix(key, deliveriesFolder+"/"):
		d, ok = parseDeliveryKey(key)
	}
	return d, ok
}

// Owners calls visit for the owner of a scope and for those that the owner
// belongs to, the nearest first, until visit returns false.
func Owners(scope string, visit func(owner string) bool) {
	owner, _, _ := strings.Cut(scope, "/_/")
	for more := true; more && owner != "" && visit(owner); {
		owner, _, more = cutLast(owner, "/")
	}
}

const refsFolder = "refs"

func refKey(scope, name string) string { return refsFolder + "/" + scope + "/_/" + name }

// RefContent returns the digest of the manifest that a stored ref names.
func RefContent(value []byte) (d digest.Digest, ok bool) {
	var ref Ref
	err := json.Unmarshal(value, &ref)
	return ref.Digest, err == nil && ref.Digest.Validate() == nil
}

const deliveriesFolder = "deliveries"

// deliveryKey returns the key of a delivery. Deliveries are spread over folders
// in the same way as content, since one source may have delivered all of it.
func deliveryKey(source string, d digest.Digest) string {
	hex := d.Encoded()
	return deliveriesFolder + "/" + source + "/_/" + d.Algorithm().String() + "/" + hex[:2] + "/" + hex
}

// parseDeliveryKey returns the digest of a key that deliveryKey has made.
func parseDeliveryKey(key string) (d digest.Digest, ok bool) {
	rest, hex, ok1 := cutLast(key, "/")
	rest, _, ok2 := cutLast(rest, "/")
	_, algorithm, ok3 := cutLast(rest, "/")
	d = digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	return d, ok1 && ok2 && ok3 && d.Validate() == nil
}

// sourceOf returns the source and the repository of a scope.
func sourceOf(scope string) (source, repository string) {
	_, rest, _ := strings.Cut(scope, "/_/")
	source, repository, _ = strings.Cut(rest, "/")
	return source, repository
}

// below returns how the keys in a folder begin that are below a prefix, which may be
// empty.
func below(folder, prefix string) string {
	if prefix == "" {
		return folder + "/"
	}
	return folder + "/" + prefix + "/"
}

// scopeOf returns the scope of a link or ref by its key.
func scopeOf(key string) string {
	_, rest, _ := strings.Cut(key, "/")
	i := strings.LastIndex(rest, "/_/")
	return rest[:max(i, 0)]
}

// recordedAt returns when a link was added, or the source has confirmed a ref.
func recordedAt(key string, data []byte) time.Time {
	var times struct {
		Added   time.Time `json:"added"`
		Checked time.Time `json:"checked"`
	}
	if json.Unmarshal(data, &times) != nil {
		return time.Time{}
	}
	if strings.HasPrefix(key, linksFolder+"/") {
		return times.Added
	}
	return times.Checked
}
