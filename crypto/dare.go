package crypto

import (
	"bytes"
	"fmt"
	"io"

	"github.com/minio/sio"
)

// The only use of minio/sio v0.4.1, within what was found safe of it: DARE 2.0 and AES-256-GCM alone
// (its default accepts DARE 1.0, which truncates unnoticed), one key for one stream (under a shared
// key whole streams and single packages can be swapped), sizes proven before anything is decrypted
// (DecryptBuffer panics on some lengths), no empty plaintext (it becomes zero unauthenticated
// bytes), and never DecryptWriter (it accepts a stream cut at a package boundary).

const (
	packagePlain    = 64 << 10 // plaintext bytes of every package but the last
	packageOverhead = 32       // header (16) and tag (16) of every package
	packageStored   = packagePlain + packageOverhead
	maxPlain        = 1 << 48 // 2^32 packages: the sequence number has 32 bits
)

// streamSize returns the bytes of the DARE stream of plain bytes.
func streamSize(plain int64) int64 {
	packages := (plain + packagePlain - 1) / packagePlain
	return plain + packages*packageOverhead
}

// streamPlain is the inverse of streamSize. ok is false where no plaintext gives such a stream.
func streamPlain(stream int64) (plain int64, ok bool) {
	if stream <= 0 || stream > streamSize(maxPlain) {
		return 0, false
	}
	packages := (stream + packageStored - 1) / packageStored
	plain = stream - packages*packageOverhead
	return plain, plain > 0 && streamSize(plain) == stream
}

func dareConfig(key secret) sio.Config {
	return sio.Config{
		MinVersion:   sio.Version20,
		MaxVersion:   sio.Version20,
		CipherSuites: []byte{sio.AES_256_GCM},
		Key:          key[:],
	}
}

// encrypt fills dst, of streamSize(len(plain)) bytes, with the stream of plain. The stream's nonce
// comes from random.
func encrypt(dst, plain []byte, key secret, random io.Reader) error {
	config := dareConfig(key)
	config.Rand = random
	r, err := sio.EncryptReader(bytes.NewReader(plain), config)
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(r, dst); err != nil {
		return err
	}
	if !ended(r) { // also gives the reader's buffer back to its pool
		return fmt.Errorf("stream of %d plaintext bytes exceeds %d", len(plain), len(dst)) // unreachable
	}
	return nil
}

// decrypt returns the plaintext of a whole stream, in buf's memory where that suffices.
func decrypt(buf, stream []byte, key secret) ([]byte, error) {
	size, ok := streamPlain(int64(len(stream)))
	if !ok {
		return nil, fmt.Errorf("%d bytes are no DARE stream", len(stream))
	}
	plain, err := sio.DecryptBuffer(within(buf, size)[:0], stream, dareConfig(key))
	if err != nil {
		return nil, err
	}
	if int64(len(plain)) != size { // unreachable: packages have fixed sizes
		return nil, fmt.Errorf("plaintext of %d bytes, want %d", len(plain), size)
	}
	return plain, nil
}

// decryptRange fills dst with the plaintext of whole packages, the first of which has the sequence
// number first. last says that they end the stream; it is proven by the package's final flag.
func decryptRange(dst, packages []byte, key secret, first uint32, last bool) error {
	config := dareConfig(key)
	config.SequenceNumber = first
	r, err := sio.DecryptReader(bytes.NewReader(packages), config)
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(r, dst); err != nil {
		return err
	}
	if ended(r) != last {
		return fmt.Errorf("final package: %t, want %t", !last, last)
	}
	return nil
}

// ended reports whether r is at its end. A DARE reader is only there after a final package: where the
// packages run out before, it returns an error.
func ended(r io.Reader) bool {
	n, err := r.Read(make([]byte, 1))
	return n == 0 && err == io.EOF
}
