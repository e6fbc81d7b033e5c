package mediatype

import (
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParseAccept(t *testing.T) {
	const all = v1.MediaTypeImageIndex + "," + v1.MediaTypeImageManifest + "," + dockerManifestList + "," + dockerManifest
	for _, row := range []struct {
		values []string
		want   string
	}{
		{nil, ""},
		{[]string{""}, ""},
		{[]string{all}, ""},
		{[]string{dockerManifest}, "d"},
		{[]string{dockerManifest, v1.MediaTypeImageManifest}, "md"},
		{[]string{dockerManifest, v1.MediaTypeImageManifest, dockerManifestList, dockerSchema1, "application/json", v1.MediaTypeImageIndex}, ""},
		{[]string{" Application/vnd.docker.distribution.manifest.v2+JSON ; q=0.5 , application/json"}, "d"},
		{[]string{dockerManifest + ", */*"}, ""},
		{[]string{dockerManifest + ",application/*;q=0.1"}, ""},
		{[]string{dockerManifest + ", */*;q=0"}, "d"},
		{[]string{all + ";q=0.0"}, "iml"},
		{[]string{all + "; Q=0"}, "iml"},
		{[]string{all + ";q=0.01"}, ""},
		{[]string{ociArtifact, "application/json", "text/html"}, ""},
		{[]string{"text/html,application/xhtml+xml,*/*;q=0.8"}, ""},
	} {
		a := ParseAccept(row.values)
		if a.String() != row.want {
			t.Errorf("%q: got %q, want %q", row.values, a, row.want)
		}
		if !a.Accepts(ociArtifact) || !a.Accepts("application/vnd.example.thing.v1+json") {
			t.Errorf("%q: got types excluded between which there is no choice", row.values)
		}
	}
	a := ParseAccept([]string{dockerManifest, v1.MediaTypeImageIndex})
	for mediaType, want := range map[string]bool{dockerManifest: true, v1.MediaTypeImageIndex: true, dockerManifestList: false, v1.MediaTypeImageManifest: false} {
		if got := a.Accepts(mediaType); got != want || !Accept(0).Accepts(mediaType) {
			t.Errorf("%s: got %v, want %v", mediaType, got, want)
		}
	}
}
