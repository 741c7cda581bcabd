package chunkstore

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/hakobune-dr/hakobune/crypto"
)

// MaxChunk bounds the plaintext of one chunk, whatever a repository's parameters say.
const MaxChunk = 16 << 20

// codec says how a chunk is encoded. The values are part of the format.
type codec uint8

const (
	raw       codec = 0
	zstdFrame codec = 1 // one zstd frame (RFC 8878)
)

// coder encodes and decodes chunks. It is safe for concurrent use.
type coder struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newCoder() (*coder, error) {
	// Chunks carry an HMAC of their plaintext: zstd's own checksum would be work without use. The default
	// level stores 6 % less than the fastest one, of programs and databases in chunks of 1.5 MiB, for the
	// same processor time within what could be measured (docs/performance.md).
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("zstd encoder: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxChunk))
	if err != nil {
		return nil, fmt.Errorf("zstd decoder: %w", err)
	}
	return &coder{enc, dec}, nil
}

// encode returns the encoding of plain, in scratch's memory, or plain itself where compression does
// not pay. It sees to it that scratch has room, also for what does not pay: the encoder would let it
// grow piece by piece, which cost more than everything else together for content that does not
// compress.
func (c *coder) encode(plain []byte, scratch *[]byte) (codec, []byte) {
	if n := c.enc.MaxEncodedSize(len(plain)); cap(*scratch) < n {
		*scratch = make([]byte, 0, n)
	}
	out := c.enc.EncodeAll(plain, (*scratch)[:0])
	if len(out)+len(out)/32 >= len(plain) {
		return raw, plain
	}
	return zstdFrame, out
}

// decode returns the plaintext of a chunk, in memory of its own, after comparing it with the chunk's
// id. It never allocates beyond the length that the table states, itself bounded.
func (c *coder) decode(ids idSource, e packEntry, encoded []byte) ([]byte, error) {
	var own []byte
	plain, err := c.open(ids, e, encoded, &own)
	if e.codec == raw {
		plain = bytes.Clone(plain)
	}
	return plain, err
}

// verify is decode without the result. What it decodes lies in scratch's memory, which grows.
func (c *coder) verify(ids idSource, e packEntry, encoded []byte, scratch *[]byte) error {
	_, err := c.open(ids, e, encoded, scratch)
	return err
}

// open returns the verified plaintext: in scratch's memory, or encoded itself.
func (c *coder) open(ids idSource, e packEntry, encoded []byte, scratch *[]byte) (plain []byte, err error) {
	if e.plain > MaxChunk || e.plain == 0 {
		return nil, fmt.Errorf("%w: chunk %v of %d bytes", crypto.ErrDamaged, e.id, e.plain)
	}
	switch e.codec {
	case raw:
		plain = encoded
	case zstdFrame:
		if cap(*scratch) < int(e.plain) {
			*scratch = make([]byte, 0, e.plain)
		}
		if plain, err = c.dec.DecodeAll(encoded, (*scratch)[:0]); err != nil {
			return nil, fmt.Errorf("%w: chunk %v: %w", crypto.ErrDamaged, e.id, err)
		}
	default:
		return nil, fmt.Errorf("%w: chunk %v has codec %d", crypto.ErrNewer, e.id, e.codec)
	}
	if len(plain) != int(e.plain) {
		return nil, fmt.Errorf("%w: chunk %v has %d bytes, its table says %d", crypto.ErrDamaged, e.id, len(plain), e.plain)
	}
	if id, err := chunkID(ids, e.kind, plain); err != nil || id != e.id {
		return nil, fmt.Errorf("%w: chunk %v: content does not match its id", crypto.ErrDamaged, e.id)
	}
	return plain, nil
}

// idSource gives chunks their ids: crypto.IDs, and crypto.Keys for the chunks that they seal.
type idSource interface {
	ChunkID(plain []byte) [32]byte
	NamedID(name string) [32]byte
}

// chunkID computes the id that a chunk's content must have.
func chunkID(ids idSource, kind Kind, plain []byte) (ID, error) {
	if kind != Named {
		return ids.ChunkID(plain), nil
	}
	name, _, err := splitNamed(plain)
	return ids.NamedID(name), err
}

// joinNamed is the plaintext of a Named chunk: the length of the name, the name, the value.
func joinNamed(name string, value []byte) []byte {
	b := binary.AppendUvarint(make([]byte, 0, len(name)+len(value)+2), uint64(len(name)))
	return append(append(b, name...), value...)
}

func splitNamed(plain []byte) (string, []byte, error) {
	n, used := binary.Uvarint(plain)
	if used <= 0 || n > uint64(len(plain)-used) {
		return "", nil, fmt.Errorf("%w: named chunk without a name", crypto.ErrDamaged)
	}
	return string(plain[used:][:n]), plain[used+int(n):], nil
}
