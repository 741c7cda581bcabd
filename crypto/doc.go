// Package crypto seals the objects of a repository and keeps its keys.
package crypto
