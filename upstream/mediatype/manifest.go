package mediatype

import (
	"bytes"
	"encoding/json"
	"errors"
	"mime"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types without a constant in image-spec.
const (
	dockerManifest      = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList  = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	ociArtifact         = "application/vnd.oci.artifact.manifest.v1+json" // in no released specification, but in use
)

// maxMediaType is the length of the longest media type in bytes (RFC 6838, section 4.2).
const maxMediaType = 127 + 1 + 127

// manifestTypes lists the media types of manifests that the client prefers.
var manifestTypes = []string{v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, dockerManifestList, dockerManifest, ociArtifact}

var (
	errNoManifest    = errors.New("the response is not a manifest")
	errContradiction = errors.New("the manifest contradicts itself about its type or has a field twice")
)

// ErrSchema1 means that a manifest is one of Docker's schema 1.
var ErrSchema1 = errors.New("schema 1 manifests are not supported; push the image again with a current tool")

// shape is what the fields of a manifest say about it.
type shape int

const (
	otherShape shape = iota
	indexShape
	imageShape
)

// shapeOf returns the shape that the content of a media type has. It is otherShape
// if any is possible.
func shapeOf(mediaType string) shape {
	switch mediaType {
	case v1.MediaTypeImageIndex, dockerManifestList:
		return indexShape
	case v1.MediaTypeImageManifest, dockerManifest:
		return imageShape
	}
	return otherShape
}

// NamesManifest reports whether a media type can be that of a manifest, including
// those of artifacts and of specifications to come, as opposed to one that says
// nothing about the content, such as application/json. Other types must not reach
// clients: a browser would render text/html.
func NamesManifest(mediaType string) bool {
	if len(mediaType) > maxMediaType {
		return false
	}
	return strings.HasPrefix(mediaType, "application/") && strings.HasSuffix(mediaType, "+json") ||
		strings.HasPrefix(mediaType, "application/vnd.") && !strings.HasSuffix(mediaType, "+xml")
}

// IsSchema1 reports whether a media type is that of a manifest of Docker's schema 1.
func IsSchema1(mediaType string) bool {
	return mediaType == dockerSchema1 || mediaType == dockerSchema1Signed
}

// OfManifest returns the media type of a manifest. Its mediaType field decides,
// which OCI content may omit; then the response's Content-Type, unless it contradicts
// the fields; then the fields. claimed is the Content-Type without parameters.
//
// The error says why the content is not a manifest: it is not a JSON object, it is one
// of Docker's schema 1, nothing names its type, or it can be read both as an index
// and as an image, of which clients could run either (CVE-2021-41190; image-spec
// v1.1, "Image Manifest Property Descriptions"), or has such a field twice.
func OfManifest(claimed string, content []byte) (string, error) {
	var m struct {
		SchemaVersion field `json:"schemaVersion"`
		MediaType     field `json:"mediaType"`
		Manifests     field `json:"manifests"`
		Config        field `json:"config"`
		Layers        field `json:"layers"`
		FSLayers      field `json:"fsLayers"`
	}
	err := errNoManifest
	if bytes.HasPrefix(bytes.TrimLeft(content, " \t\r\n"), []byte("{")) {
		err = json.Unmarshal(content, &m)
	}
	var ownType string
	if err == nil && m.MediaType.isSet() {
		err = json.Unmarshal(m.MediaType, &ownType)
	}
	switch {
	case errors.Is(err, errContradiction):
		return "", errContradiction
	case err != nil:
		return "", errNoManifest
	}
	found := otherShape
	isIndex, isImage := m.Manifests.isSet(), m.Layers.isSet() || m.Config.isSet()
	switch {
	case IsSchema1(claimed), IsSchema1(ownType), m.FSLayers.isSet(), string(m.SchemaVersion) == "1" && ownType == "":
		return "", ErrSchema1
	case isIndex && isImage:
		return "", errContradiction
	case isIndex:
		found = indexShape
	case isImage:
		found = imageShape
	}
	own, _, err := mime.ParseMediaType(ownType)
	switch {
	case err == nil && NamesManifest(own):
		if found != otherShape && shapeOf(own) != otherShape && found != shapeOf(own) {
			return "", errContradiction
		}
		return own, nil
	case NamesManifest(claimed) && (found == otherShape || shapeOf(claimed) == otherShape || found == shapeOf(claimed)):
		return claimed, nil
	case string(m.SchemaVersion) != "2":
	case found == indexShape && m.Manifests.isArray():
		return v1.MediaTypeImageIndex, nil
	case found == imageShape && m.Layers.isArray() && m.Config.isSet():
		return v1.MediaTypeImageManifest, nil
	}
	return "", errNoManifest
}

// field is the value of a field of a manifest, in JSON. Of fields with the same name,
// or with names that differ in case, some decoders take the first, others the last or
// the one that is spelled exactly, so their values must be the same. null does not
// count: Go programs write it for an empty list.
type field json.RawMessage

// UnmarshalJSON implements [json.Unmarshaler].
func (f *field) UnmarshalJSON(value []byte) error {
	switch {
	case string(value) == "null":
	case f.isSet() && !bytes.Equal(*f, value):
		return errContradiction
	default:
		*f = bytes.Clone(value)
	}
	return nil
}

func (f field) isSet() bool { return f != nil }

func (f field) isArray() bool { return bytes.HasPrefix(f, []byte("[")) }
