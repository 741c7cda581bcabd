// Command helper stands in for the program in helper containers.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/hakobune-dr/hakobune/exporter"
)

func main() {
	stdio := struct {
		io.Reader
		io.Writer
	}{os.Stdin, os.Stdout}
	if err := exporter.ServeTree(context.Background(), stdio, exporter.OpenRequest); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
