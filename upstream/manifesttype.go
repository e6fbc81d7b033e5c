package upstream

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
	errContradiction = errors.New("the manifest contradicts itself about being an image or an index")
	errSchema1       = errors.New("schema 1 manifests are not supported; push the image again with a current tool")
)

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

// namesManifest reports whether a media type can be that of a manifest, including
// those of artifacts and of specifications to come, as opposed to one that says
// nothing about the content, such as application/json. Other types must not reach
// clients: a browser would render text/html.
func namesManifest(mediaType string) bool {
	if len(mediaType) > maxMediaType {
		return false
	}
	return strings.HasPrefix(mediaType, "application/") && strings.HasSuffix(mediaType, "+json") ||
		strings.HasPrefix(mediaType, "application/vnd.") && !strings.HasSuffix(mediaType, "+xml")
}

func isSchema1(mediaType string) bool {
	return mediaType == dockerSchema1 || mediaType == dockerSchema1Signed
}

// ManifestType returns the media type of a manifest. Its mediaType field decides,
// which OCI content may omit; then the response's Content-Type, unless it contradicts
// the fields; then the fields. claimed is the Content-Type without parameters.
//
// The error says why the content is no manifest: it is not a JSON object, it is one
// of Docker's schema 1, nothing names its type, or it can be read both as an index
// and as an image, of which clients could run either (CVE-2021-41190; image-spec
// v1.1, "Image Manifest Property Descriptions").
func ManifestType(claimed string, content []byte) (string, error) {
	var m struct {
		SchemaVersion json.RawMessage `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if !bytes.HasPrefix(bytes.TrimLeft(content, " \t\r\n"), []byte("{")) || json.Unmarshal(content, &m) != nil {
		return "", errNoManifest
	}
	found := otherShape
	isIndex, isImage := isSet(m.Manifests), isSet(m.Layers) || isSet(m.Config)
	switch {
	case isSchema1(claimed), isSchema1(m.MediaType), isSet(m.FSLayers), string(m.SchemaVersion) == "1" && m.MediaType == "":
		return "", errSchema1
	case isIndex && isImage:
		return "", errContradiction
	case isIndex:
		found = indexShape
	case isImage:
		found = imageShape
	}
	own, _, err := mime.ParseMediaType(m.MediaType)
	switch {
	case err == nil && namesManifest(own):
		if found != otherShape && shapeOf(own) != otherShape && found != shapeOf(own) {
			return "", errContradiction
		}
		return own, nil
	case namesManifest(claimed) && (found == otherShape || shapeOf(claimed) == otherShape || found == shapeOf(claimed)):
		return claimed, nil
	case string(m.SchemaVersion) != "2":
	case found == indexShape && isArray(m.Manifests):
		return v1.MediaTypeImageIndex, nil
	case found == imageShape && isArray(m.Layers) && isSet(m.Config):
		return v1.MediaTypeImageManifest, nil
	}
	return "", errNoManifest
}

// isSet reports whether a field is present. Go programs write null for an empty list.
func isSet(field json.RawMessage) bool { return field != nil && string(field) != "null" }

func isArray(field json.RawMessage) bool { return bytes.HasPrefix(field, []byte("[")) }
