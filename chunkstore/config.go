package chunkstore

import (
	"errors"
	"fmt"

	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/internal/frugal"
)

// FormatVersion is the version of the repository format that this program writes. It reads every
// version up to it.
const FormatVersion = 1

const configMagic = "hakobune"

// Errors that say why a repository could not be opened.
var (
	// ErrNoRepository says that the location holds no repository.
	ErrNoRepository = errors.New("no repository here")
	// ErrRepositoryExists says that Init found one.
	ErrRepositoryExists = errors.New("a repository exists here already")
)

// Config is the clear object "config". Each key slot holds a copy under encryption, and Open
// refuses a repository whose clear config differs from it.
type Config struct {
	Magic      string              `json:"magic"`
	Version    int                 `json:"version"`
	Repository crypto.RepositoryID `json:"repository"`
	Chunker    ChunkerParams       `json:"chunker"`
	Features   []string            `json:"features,omitempty"`   // mandatory: an unknown one is refused
	Lock       *Lock               `json:"lock,omitempty"`       // of a repository whose objects are locked
	DataClass  string              `json:"data_class,omitempty"` // that packs of data are put into, where a store has classes and was not opened with another one
}

// ChunkerParams are the parameters of content-defined chunking of file contents. The zero value
// means the defaults, which keep restic's real average of about 1.5 MiB while running 1.5 times as
// fast and storing 20 % less per small edit in place (measured; docs/performance.md).
type ChunkerParams struct {
	Min  uint32 `json:"min"`  // bytes
	Bits uint8  `json:"bits"` // a cut where this many bits of the fingerprint are zero
	Max  uint32 `json:"max"`  // bytes
}

// The chunking parameters: defaultChunker of contents, metaChunker of metadata streams (fixed in
// this version of the format).
var (
	defaultChunker = ChunkerParams{Min: 1 << 20, Bits: 19, Max: 8 << 20}
	metaChunker    = ChunkerParams{Min: 64 << 10, Bits: 17, Max: 1 << 20}
)

func (p ChunkerParams) validate() error {
	if p.Min < 64<<10 || p.Max > MaxChunk || p.Min > p.Max || p.Bits < 10 || p.Bits > 24 {
		return fmt.Errorf("chunker parameters min %d, bits %d, max %d are out of bounds", p.Min, p.Bits, p.Max)
	}
	return nil
}

// maxConfig bounds the object "config", which is read before anything proves it.
const maxConfig = 64 << 10

// parseConfig reads the object "config".
func parseConfig(b []byte) (Config, error) {
	var c Config
	if len(b) > maxConfig {
		return c, fmt.Errorf("%w: object %q of %d bytes is not a repository's config", crypto.ErrDamaged, configName, len(b))
	}
	if err := frugal.Unmarshal(b, &c); err != nil || c.Magic != configMagic {
		return c, fmt.Errorf("%w: object %q is not a repository's config", crypto.ErrDamaged, configName)
	}
	if c.Version > FormatVersion || len(c.Features) > 0 {
		return c, fmt.Errorf("%w: the repository has format %d %v, this program reads up to %d", crypto.ErrNewer, c.Version, c.Features, FormatVersion)
	}
	if c.Version < 1 {
		return c, fmt.Errorf("%w: format version %d", crypto.ErrDamaged, c.Version)
	}
	if err := c.Chunker.validate(); err != nil {
		return c, fmt.Errorf("%w: %w", crypto.ErrDamaged, err)
	}
	if err := checkClass(c.DataClass); err != nil {
		return c, fmt.Errorf("%w: %w", crypto.ErrDamaged, err)
	}
	if c.Lock != nil {
		if err := c.Lock.validate(); err != nil {
			return c, fmt.Errorf("%w: %w", crypto.ErrDamaged, err)
		}
	}
	return c, nil
}
