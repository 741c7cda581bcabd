package chunkstore

import (
	"fmt"
	"strings"
)

// Classer is implemented by backends that have classes of storage, and by all decorators.
type Classer interface {
	// InClass returns the backend as it puts objects whose names MayBeCold: into that class, in the store's words, unless it was
	// opened with another one. Where there are no classes it returns the backend as it is.
	InClass(class string) Backend
}

// inClass calls b's InClass, if it has one.
func inClass(b Backend, class string) Backend {
	if c, ok := b.(Classer); ok {
		return c.InClass(class)
	}
	return b
}

// checkClass refuses what cannot be the name of a class; which ones there are only the store knows.
func checkClass(class string) error {
	if len(class) > 64 || strings.Trim(class, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		return fmt.Errorf("storage class %q: want capital letters, as GLACIER_IR", class)
	}
	return nil
}
