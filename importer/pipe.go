package importer

import (
	"errors"
	"io"
)

// errReadNoFurther is what the writer of a pipe sees when its reader has returned.
var errReadNoFurther = errors.New("the engine reads no further")

// pipe runs write and read at the same time, with a pipe between them, and waits for both. An
// error of either ends the other.
func pipe(write func(io.Writer) error, read func(io.Reader) error) error {
	pr, pw := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := write(pw)
		pw.CloseWithError(err)
		written <- err
	}()
	err := read(pr)
	pr.CloseWithError(errReadNoFurther)
	werr := <-written
	if errors.Is(werr, errReadNoFurther) {
		return err // which says why, or that the reader had seen what it wanted
	}
	return errors.Join(err, werr)
}
