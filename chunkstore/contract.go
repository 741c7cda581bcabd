package chunkstore

import (
	"errors"
	"fmt"
	"strings"
)

// maxName bounds the bytes of an object's name.
const maxName = 200

// ErrPermanent says that the same call would fail again until somebody changes something outside
// this program: a full disk, a certificate that is not trusted, clocks that differ. Never retried.
var ErrPermanent = errors.New("trying again does not help")

// Permanent returns an error in the words of err that wraps err and ErrPermanent.
func Permanent(err error) error { return permanent{err} }

type permanent struct{ error }

func (p permanent) Unwrap() []error { return []error{p.error, ErrPermanent} }

// errName says that a name or prefix is not one of Backend's contract. It is a bug of the caller.
var errName = Permanent(errors.New("invalid object name"))

// CheckName reports whether name keeps the contract of Backend: 1 to 200 bytes of a-z, 0-9, '-',
// '_' and '.' in elements between slashes, none of which is empty, "." or "..". Every backend
// refuses other names before it does anything with them.
//
// No object's name may be a directory of another's ("a" beside "a/b"): a directory cannot hold
// both. Backends do not check this.
func CheckName(name string) error {
	if err := CheckPrefix(name); err != nil {
		return err
	}
	if last := name[strings.LastIndexByte(name, '/')+1:]; last == "" || last == "." || last == ".." {
		return fmt.Errorf("%w: %q", errName, name)
	}
	return nil
}

// CheckPrefix reports whether prefix could begin a valid name. The empty prefix can.
func CheckPrefix(prefix string) error {
	if len(prefix) > maxName || strings.IndexFunc(prefix, notInName) >= 0 {
		return fmt.Errorf("%w: %q", errName, prefix)
	}
	for rest, element, more := prefix, "", true; ; {
		if element, rest, more = strings.Cut(rest, "/"); !more {
			return nil
		}
		if element == "" || element == "." || element == ".." {
			return fmt.Errorf("%w: %q", errName, prefix)
		}
	}
}

func notInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("-_./", r)
}

// Span resolves the arguments of Backend.Get for an object of size bytes: it returns how many
// bytes from off to read, or an error if they are not all there or exceed MaxObject.
func Span(size, off, n int64) (int64, error) {
	if n < 0 && off <= size {
		n = size - off
	}
	if off < 0 || n < 0 || off > size || n > size-off {
		return 0, Permanent(fmt.Errorf("range of %d bytes at %d: the object has %d", n, off, size))
	}
	return n, CheckSize(n)
}

// CheckSize reports whether an object or a part of it may have n bytes.
func CheckSize(n int64) error {
	if n > MaxObject {
		return Permanent(fmt.Errorf("%d bytes exceed the limit of %d", n, MaxObject))
	}
	return nil
}
