package accesstoken

import (
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// BenchmarkVerify is the cost of a login with a token that is known.
func BenchmarkVerify(b *testing.B) {
	node := New(Config{Storage: &certmagic.FileStorage{Path: b.TempDir()}})
	_, secret := create(b, node, deploy, time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		accept(b, node, secret)
	}
}

// BenchmarkFind is what each request costs that shows what a token has bought.
func BenchmarkFind(b *testing.B) {
	node := New(Config{Storage: &certmagic.FileStorage{Path: b.TempDir()}})
	made, _ := create(b, node, deploy, time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := node.Find(b.Context(), made.ID); err != nil {
			b.Fatal(err)
		}
	}
}
