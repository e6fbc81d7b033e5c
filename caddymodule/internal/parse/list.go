package parse

import "fmt"

// Unique reports whether the last of some things shares its name with an earlier one.
func Unique[T any](what string, things []T, name func(T) string) error {
	if len(things) == 0 {
		return nil
	}
	last := name(things[len(things)-1])
	for _, other := range things[:len(things)-1] {
		if name(other) == last {
			return fmt.Errorf("duplicate %s '%s'", what, last)
		}
	}
	return nil
}

// Each checks each thing, and that their names are unique. The error is that of the
// first thing that is wrong.
func Each[T any](what string, things []T, name func(T) string, check func(T) error) error {
	for i, thing := range things {
		if err := check(thing); err != nil {
			return err
		}
		if err := Unique(what, things[:i+1], name); err != nil {
			return err
		}
	}
	return nil
}
