// Package mediatype knows the media types of manifests: which ones clients accept and
// registries offer, and which one a manifest has.
//
// An [Accept] is the set that a client accepts, which is sent to registries and is part of
// what answers are remembered by. [OfManifest] decides the type of a manifest by its
// content and its Content-Type, and refuses what clients could read in different ways.
package mediatype
