package upstream

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/mediatype"
)

func digestOf(s string) digest.Digest { return digest.FromString(s) }

func TestRegistryManifest(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{
		"plain":       nil,
		"token":       {registrytest.WithToken("", "")},
		"prefix":      {registrytest.WithPrefix("/artifactory/docker"), registrytest.WithToken("", "")},
		"no head":     {registrytest.WithoutHead()},
		"no digest":   {registrytest.WithoutDigestHeader()},
		"no length":   {registrytest.WithoutLength()},
		"wrong type":  {registrytest.WithManifestType("application/json")},
		"parameters":  {registrytest.WithManifestType(v1.MediaTypeImageIndex + "; charset=utf-8")},
		"broken type": {registrytest.WithManifestType(";;")},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, options...)
			index := r.PutIndex("acme/app", "1.0", r.PutImage("acme/app", "", []byte("x")))
			content := r.RawManifest("acme/app", index)
			u := client(t, r)
			for _, reference := range []string{"1.0", string(index)} {
				want := Descriptor{index, v1.MediaTypeImageIndex, int64(len(content))}
				d, err := u.ResolveManifest(t.Context(), "acme/app", reference)
				if err != nil || d.Descriptor != want {
					t.Errorf("ResolveManifest(%s) = %+v, %v, want %+v", reference, d.Descriptor, err, want)
				}
				m, err := u.Manifest(t.Context(), "acme/app", reference)
				if err != nil || m.Descriptor != want || string(m.Content) != string(content) {
					t.Errorf("Manifest(%s) = %+v, %v, want %+v with its content", reference, m.Descriptor, err, want)
				}
			}
			wantGets := 2
			if strings.HasPrefix(name, "no ") || strings.HasSuffix(name, " type") {
				wantGets = 4
			}
			if got := r.Counts(); got.ManifestHead != 2 || got.ManifestGet != wantGets {
				t.Errorf("got requests %+v, want 2 HEADs and %d GETs", got, wantGets)
			}
		})
	}
}

func TestRegistryManifestSHA512(t *testing.T) {
	r := registrytest.New(t)
	content := []byte(`{"schemaVersion":2,"manifests":[]}`)
	d := digest.SHA512.FromBytes(content)
	r.PutManifestAs("a", d, v1.MediaTypeImageIndex, content, "1")
	u := client(t, r)
	if m, err := u.Manifest(t.Context(), "a", string(d)); err != nil || m.Digest != d {
		t.Errorf("by digest: got %v, %v, want %v", m.Digest, err, d)
	}
	if m, err := u.Manifest(t.Context(), "a", "1"); err != nil || m.Digest != digest.FromBytes(content) {
		t.Errorf("by tag: got %v, %v, want %v", m.Digest, err, digest.FromBytes(content))
	}
}

const (
	ociImage, ociIndex, unknown = v1.MediaTypeImageManifest, v1.MediaTypeImageIndex, "application/vnd.example.thing.v1+json"
	imageFields, indexFields    = `"config":{},"layers":[]`, `"manifests":[]`
)

// named returns a manifest with a mediaType.
func named(mediaType, fields string) string {
	return `{"schemaVersion":2,"mediaType":"` + mediaType + `",` + fields + `}`
}

var manifestTypeCases = []struct {
	header, content string
	want            string // "" for an error
}{
	{dockerManifestList, `{}`, dockerManifestList},
	{ociArtifact, `{}`, ociArtifact},
	{"text/plain", `{"schemaVersion":2,"mediaType":"` + dockerManifest + `"}`, dockerManifest},
	{"", `{"schemaVersion":2,"manifests":[]}`, ociIndex},
	{"", `{"schemaVersion":2,"config":{},"layers":[]}`, ociImage},
	{"", `{"schemaVersion":2,"config":{},"layers":[],"manifests":null}`, ociImage},
	{"", `{"schemaVersion":2,"manifests":{}}`, ""},
	{"", `{"schemaVersion":2}`, ""},

	// The header is wrong.
	{ociIndex, named(ociImage, imageFields), ociImage},
	{ociImage, named(ociIndex, indexFields), ociIndex},
	{ociIndex, `{"schemaVersion":2,` + imageFields + `}`, ociImage},
	{dockerManifest, `{"schemaVersion":2,` + indexFields + `}`, ociIndex},
	{dockerManifestList, `{"schemaVersion":2,` + indexFields + `}`, dockerManifestList},
	{"application/json", named(dockerManifest, imageFields), dockerManifest},
	{unknown, named(dockerManifest, imageFields), dockerManifest},

	// The content can be read in two ways.
	{"", `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`, ""},
	{ociIndex, `{"schemaVersion":2,"layers":[],"manifests":[]}`, ""},
	{ociImage, named(ociImage, imageFields+","+indexFields), ""},
	{ociIndex, named(ociIndex, `"Config":{},`+indexFields), ""},
	{ociIndex, named(ociImage, indexFields), ""},
	{ociImage, named(ociIndex, imageFields), ""},

	// Decoders differ about a field that is there twice.
	{ociImage, named(ociImage, `"manifests":[],"manifests":null,`+imageFields), ""},
	{ociImage, named(ociImage, `"manifests":[{}],"Manifests":null,`+imageFields), ""},
	{ociIndex, named(ociIndex, `"layers":[],"layerſ":null,`+indexFields), ""},
	{ociImage, named(ociImage, `"layers":[{}],`+imageFields), ""},
	{"", named(ociImage, `"mediaType":"`+ociIndex+`"`), ""},
	{ociIndex, named(ociIndex, `"MediaType":"`+unknown+`"`), ""},
	{"", `{"schemaVersion":2,"schemaversion":1}`, ""},
	{ociImage, named(ociImage, `"layers":[],"MediaType":null,`+imageFields), ociImage},

	// Types that the client does not know.
	{unknown, `{"things":[]}`, unknown},
	{unknown, named(unknown, imageFields), unknown},
	{"application/vnd.example.other", named(unknown, `"things":[]`), unknown},
	{"application/problem", `{"things":[]}`, ""},
	{ociImage, named("text/html", imageFields), ociImage},
	{"text/html", named("text/html", `"things":[]`), ""},
	{"application/vnd.example+xml", `{"things":[]}`, ""},

	{"", `{"schemaVersion":1,"fsLayers":[]}`, ""},
	{dockerManifest, `{"schemaVersion":1,"fsLayers":[]}`, ""},
	{dockerSchema1, `{}`, ""},
	{dockerSchema1Signed, `{}`, ""},

	// Nothing that could be a manifest.
	{ociImage, "\ufeff" + named(ociImage, imageFields), ""},
	{ociImage, named(ociImage, imageFields) + "\x00", ""},
	{ociImage, `{"mediaType":5}`, ""},
	{ociImage, `{"schemaVersion":2,"layers":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, ""},
	{"text/html", `<html>`, ""},
	{"application/json", ``, ""},
	{ociIndex, `<html>`, ""},
	{ociIndex, ``, ""},
	{ociIndex, `null`, ""},
	{ociImage, `[]`, ""},
	{ociImage, `"x"`, ""},
	{ociImage, `{"schemaVersion":2}{}`, ""},
	{unknown, `null`, ""},
}

// TestRegistryManifestTypes checks that a manifest decides its media type by its own
// mediaType or its fields, and that contradictory content is an error.
func TestRegistryManifestTypes(t *testing.T) {
	for _, test := range manifestTypeCases {
		r := registrytest.New(t)
		r.PutManifest("a", test.header, []byte(test.content), "1")
		m, err := client(t, r).Manifest(t.Context(), "a", "1")
		if test.want == "" {
			kind := Invalid
			if strings.Contains(test.content+test.header, `Version":1`) || mediatype.IsSchema1(test.header) {
				kind = Unsupported
			}
			wantKind(t, err, kind)
			continue
		}
		if err != nil || m.MediaType != test.want || string(m.Content) != test.content {
			t.Errorf("Content-Type %q, content %s: got %s, %v, want %s", test.header, test.content, m.MediaType, err, test.want)
		}
	}
}

func TestRegistryManifestInvalid(t *testing.T) {
	content := []byte(`{"schemaVersion":2,"manifests":[]}`)
	r := registrytest.New(t)
	r.PutManifestAs("a", digestOf("other"), v1.MediaTypeImageIndex, content, "wrong")
	r.PutManifest("a", v1.MediaTypeImageIndex, []byte(`{"x":"`+strings.Repeat("x", MaxManifest)+`"}`), "large")
	u := client(t, r)
	for _, reference := range []string{"wrong", string(digestOf("other")), "large"} {
		_, err := u.Manifest(t.Context(), "a", reference)
		wantKind(t, err, Invalid)
	}
	_, err := u.ResolveManifest(t.Context(), "a", "large")
	wantKind(t, err, Invalid)

	chunked := registrytest.New(t, registrytest.WithoutLength())
	chunked.PutManifest("a", v1.MediaTypeImageIndex, []byte(`{"x":"`+strings.Repeat("x", MaxManifest)+`"}`), "large")
	_, err = client(t, chunked).Manifest(t.Context(), "a", "large")
	wantKind(t, err, Invalid)

	r.Reset()
	for _, bad := range [][2]string{{"A", "1"}, {"a", ""}, {"a", "../x"}, {"a/../b", "1"}, {"a", "sha256:0"}} {
		if _, err := u.Manifest(t.Context(), bad[0], bad[1]); err == nil || KindOf(err) != Other {
			t.Errorf("Manifest(%q) = %v, want an error of kind other", bad, err)
		}
	}
	if got := r.Counts(); got != (registrytest.Counts{}) {
		t.Errorf("invalid references: got requests %+v, want none", got)
	}
}
