// Package mediatype has the media types of manifests: those that clients accept and
// registries offer, and the one that a manifest has.
//
// An [Accept] is the set that a client accepts. It is sent to registries, and answers are
// cached by it. [OfManifest] decides the type of a manifest by its content and its
// Content-Type, and refuses content that clients could read in different ways.
package mediatype
