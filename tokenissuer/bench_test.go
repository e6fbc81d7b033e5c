package tokenissuer

import (
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

func benchNode(b *testing.B) *Issuer {
	return New(Config{Storage: recordtest.NewStorage(b)})
}

func BenchmarkVerifyCached(b *testing.B) {
	node := benchNode(b)
	raw := mint(b, node, request("alice")).Raw
	accept(b, node, raw)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := node.Verify(b.Context(), raw, testIssuer, Access); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyCachedParallel(b *testing.B) {
	node := benchNode(b)
	raw := mint(b, node, request("alice")).Raw
	accept(b, node, raw)
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := node.Verify(ctx, raw, testIssuer, Access); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkVerifyCold(b *testing.B) {
	node := benchNode(b)
	raw := mint(b, node, request("alice")).Raw
	b.ReportAllocs()
	for b.Loop() {
		if _, err := node.verify(b.Context(), raw, testIssuer, Access); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerifyForged measures a token with a wrong signature.
func BenchmarkVerifyForged(b *testing.B) {
	node := benchNode(b)
	raw := mint(b, node, request("alice")).Raw
	forged := raw[:len(raw)-20] + "AAAAAAAAAAAAAAAAAAAA"
	b.ReportAllocs()
	for b.Loop() {
		if _, err := node.Verify(b.Context(), forged, testIssuer, Access); err == nil {
			b.Fatal("got no error for a forged token")
		}
	}
}

func BenchmarkMint(b *testing.B) {
	node := benchNode(b)
	b.ReportAllocs()
	for b.Loop() {
		mint(b, node, request("alice"))
	}
}

// BenchmarkParseScopesHostile parses a megabyte of scopes.
func BenchmarkParseScopesHostile(b *testing.B) {
	values := []string{strings.Repeat("repository:x:pull,push a:b:c ", 1<<20/29)}
	for b.Loop() {
		ParseScopes(values)
	}
}
