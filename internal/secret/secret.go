// Package secret provides a string type for passwords and other secrets that
// does not reveal its value when it is printed by accident.
//
// Package fmt formats a [String] as stars with every verb; encoding/json and
// other encoders that honor [encoding.TextMarshaler] write stars too. The same
// holds for an exported field of a struct, but not for an unexported one, whose
// methods package fmt cannot call: do not print a struct that has such a field.
// Code that needs the value converts it to string. The type keeps secrets out of
// logs, error texts and configuration dumps; it does not protect memory.
package secret

import "fmt"

// String is a secret string. The zero value is an empty secret, which prints as
// the empty string.
type String string

const redacted = "*****"

// Format implements [fmt.Formatter]. It writes stars for every verb and flag.
func (s String) Format(f fmt.State, _ rune) {
	if s != "" {
		_, _ = f.Write([]byte(redacted))
	}
}

// MarshalText implements [encoding.TextMarshaler]. It returns stars, or nil for
// an empty secret.
func (s String) MarshalText() ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	return []byte(redacted), nil
}
