// Package archive holds what a snapshot keeps of files: trees, as canonical records of its own, and
// image layers, as tar streams that come back byte for byte.
package archive
