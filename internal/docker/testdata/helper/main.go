// Program helper stands in for this module's program in a helper container.
package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

func main() {
	switch os.Args[1] {
	case "cat": // a file, then the input
		file, err := os.Open(os.Args[2])
		if err == nil {
			_, err = io.Copy(os.Stdout, file)
		}
		if err == nil {
			_, err = io.Copy(os.Stdout, os.Stdin)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "fail":
		fmt.Print("partial")
		fmt.Fprintln(os.Stderr, "as told")
		os.Exit(7)
	case "hang":
		fmt.Print("up")
		time.Sleep(time.Hour) // select {} would be a deadlock, which the runtime notices
	}
}
