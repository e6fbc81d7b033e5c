package pullthrough

import (
	"fmt"
	"strings"
)

// Platform is the platform of an image in an index (OCI image specification, "Image
// Index Property Descriptions").
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// ParsePlatform parses a platform, OS/ARCHITECTURE[/VARIANT], such as linux/amd64 or
// linux/arm/v7.
func ParsePlatform(text string) (Platform, error) {
	parts := strings.Split(text, "/")
	for _, part := range parts {
		if part == "" || len(parts) < 2 || len(parts) > 3 {
			return Platform{}, fmt.Errorf("invalid platform '%s'; write it as in linux/amd64 or linux/arm/v7", text)
		}
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// String returns the platform as [ParsePlatform] accepts it.
func (p Platform) String() string {
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
}

// includes reports whether an image for other is one for p. Without a variant, p
// includes all of them.
func (p Platform) includes(other Platform) bool {
	return p.OS == other.OS && p.Architecture == other.Architecture && (p.Variant == "" || p.Variant == other.Variant)
}
