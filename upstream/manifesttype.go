package upstream

import (
	"bytes"
	"encoding/json"
	"slices"

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

// manifestTypes lists the media types of manifests that the client accepts.
var manifestTypes = []string{v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, dockerManifestList, dockerManifest, ociArtifact}

func isManifestType(mediaType string) bool { return slices.Contains(manifestTypes, mediaType) }

func isSchema1(mediaType string) bool {
	return mediaType == dockerSchema1 || mediaType == dockerSchema1Signed
}

// detectManifestType returns the media type of a manifest according to its
// mediaType field, which OCI content may omit, or its structure. It returns "" for
// other content.
func detectManifestType(content []byte) string {
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
	}
	if json.Unmarshal(content, &m) != nil {
		return ""
	}
	isArray := func(raw json.RawMessage) bool { return bytes.HasPrefix(raw, []byte("[")) }
	switch {
	case isManifestType(m.MediaType):
		return m.MediaType
	case m.SchemaVersion == 1:
		return dockerSchema1
	case m.SchemaVersion != 2:
		return ""
	case isArray(m.Manifests) && m.Config == nil && m.Layers == nil:
		return v1.MediaTypeImageIndex
	case isArray(m.Layers) && m.Config != nil && m.Manifests == nil:
		return v1.MediaTypeImageManifest
	}
	return ""
}
