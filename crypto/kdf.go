package crypto

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// KDF says what one guess at a passphrase costs: the parameters of argon2id (RFC 9106). The zero KDF
// stands for 3 passes over 256 MiB by 4 threads; where the machine has less than 2 GiB, over an eighth
// of its memory, but never less than 19 MiB.
type KDF struct {
	Time      uint32 `json:"time"` // passes
	MemoryKiB uint32 `json:"memory_kib"`
	Threads   uint8  `json:"threads"`
}

// What is outside these bounds is refused before memory is taken, in sealing and in opening. The lower
// one of memory is OWASP's minimum for argon2id.
const (
	minMemoryKiB = 19 << 10
	maxMemoryKiB = 4 << 20
	maxTime      = 64
)

const defaultMemoryKiB = 256 << 10

// check returns an error where the parameters are out of bounds.
func (c KDF) check() error {
	switch {
	case c.MemoryKiB < minMemoryKiB || c.MemoryKiB > maxMemoryKiB:
		return fmt.Errorf("argon2id memory of %d KiB is not within [%d, %d]", c.MemoryKiB, minMemoryKiB, maxMemoryKiB)
	case c.Time < 1 || c.Time > maxTime:
		return fmt.Errorf("argon2id time of %d is not within [1, %d]", c.Time, maxTime)
	case c.Threads < 1:
		return fmt.Errorf("argon2id without a thread")
	}
	return nil
}

// key stretches a passphrase. The parameters must have been checked.
func (c KDF) key(passphrase, salt []byte) secret {
	return secret(argon2.IDKey(passphrase, salt, c.Time, c.MemoryKiB, c.Threads, keySize))
}

// orDefault returns c, or for the zero c the default for a machine of the given memory (0: unknown).
func (c KDF) orDefault(machineKiB uint64) KDF {
	if c != (KDF{}) {
		return c
	}
	c = KDF{Time: 3, MemoryKiB: defaultMemoryKiB, Threads: 4}
	if machineKiB > 0 {
		c.MemoryKiB = uint32(max(minMemoryKiB, min(defaultMemoryKiB, machineKiB/8)))
	}
	return c
}

// machineKiB returns the memory that this process may use: the machine's, or what its control group
// (version 2) allows where that is less. 0 says that neither can be read.
func machineKiB() uint64 {
	total := meminfoKiB()
	limit, err := os.ReadFile("/sys/fs/cgroup/memory.max")
	if err != nil {
		return total
	}
	n, err := strconv.ParseUint(string(bytes.TrimSpace(limit)), 10, 64)
	if err != nil { // "max": no limit
		return total
	}
	if total == 0 {
		return n / 1024
	}
	return min(total, n/1024)
}

func meminfoKiB() uint64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) >= 2 && fields[0] == "MemTotal:" {
			n, _ := strconv.ParseUint(fields[1], 10, 64) // 0 where it is no number: unknown
			return n
		}
	}
	return 0
}
