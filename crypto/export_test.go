package crypto

import "io"

// SealWith is Keys.Seal with a source of randomness of the test's own.
func SealWith(k *Keys, random io.Reader, t Type, name string, plain []byte) ([]byte, error) {
	return k.seal(nil, random, t, name, plain)
}

// MasterOf returns the master secret with the given bytes.
func MasterOf(epoch uint32, b [32]byte) Master { return newMaster(epoch, &b) }

// DefaultKDF returns what the zero KDF stands for on a machine of the given memory.
func DefaultKDF(machineKiB uint64) KDF { return KDF{}.orDefault(machineKiB) }

// ObjectKey returns the key of the object with the given header.
func ObjectKey(k *Keys, t Type, name string, header []byte) ([]byte, error) {
	key, err := k.headerKey(t, name, header)
	if err != nil {
		return nil, err
	}
	return key[:], nil
}
