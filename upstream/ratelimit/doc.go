// Package ratelimit reads what registries say about their limits of requests: what a 429
// limits, and how many pulls they permit in a window of time.
//
// A [Budget] is what a registry announces with its responses, as Docker Hub does; a
// [Meter] remembers the last one, and tells how scarce pulls are. A [Queue] decides who may
// spend those that are left. Registries are not trusted: what they announce is
// bounded, and malformed headers announce nothing.
package ratelimit
