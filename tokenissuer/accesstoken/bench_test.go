package accesstoken

import (
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// BenchmarkVerify measures a login with a remembered token.
func BenchmarkVerify(b *testing.B) {
	node := New(Config{Storage: &certmagic.FileStorage{Path: b.TempDir()}})
	_, secret := create(b, node, deploy, time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		accept(b, node, secret)
	}
}

// BenchmarkFind measures a request with a JSON Web Token that was issued for a
// remembered token.
func BenchmarkFind(b *testing.B) {
	node := New(Config{Storage: &certmagic.FileStorage{Path: b.TempDir()}})
	created, _ := create(b, node, deploy, time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := node.Find(b.Context(), created.ID); err != nil {
			b.Fatal(err)
		}
	}
}
