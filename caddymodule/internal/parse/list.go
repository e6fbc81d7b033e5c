package parse

import (
	"fmt"
)

// Unique finds a name that the last of some named things shares with one
// before it.
func Unique[T any](what string, things []T, name func(T) string) error {
	if len(things) == 0 {
		return nil
	}
	last := name(things[len(things)-1])
	for _, other := range things[:len(things)-1] {
		if name(other) == last {
			return fmt.Errorf("%s %s is there twice", what, last)
		}
	}
	return nil
}

// Each checks some named things in the order in which they were written.
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
