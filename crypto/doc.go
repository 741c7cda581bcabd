// Package crypto seals the objects of a repository, and keeps its keys in slots.
//
// It holds three things, in order of dependence: the key hierarchy (Master, Keys), the sealed object
// (Keys.Seal, Keys.Open, Keys.OpenRange), and the key slot (SealSlot, OpenSlot). It does no input or
// output, knows nothing of what objects hold, and is the only package that touches minio/sio, argon2
// and age. docs/format.md is the specification of the bytes; this page says why they are so.
//
// # Key hierarchy
//
// All keys come from master secrets: 32 random bytes for each key epoch, epochs counting from 1. Every
// key is HKDF-SHA-256 (RFC 5869) of one master secret, with the repository id as salt and a label as
// info; no key serves two purposes.
//
//	master secret, of each epoch
//	  "hakobune/1 object seed"                seed, from which each object of the epoch has its own key
//	  "hakobune/1 notice seed"                the same, of notices: marks and claims
//	master secret of epoch 1
//	  "hakobune/1 chunk id"                   Keys.ChunkID: HMAC-SHA-256 of a chunk's plaintext
//	  "hakobune/1 named id"                   Keys.NamedID: HMAC-SHA-256 of a name
//	  "hakobune/1 chunker seed"               Keys.ChunkerSeed: HMAC-SHA-256 of 0, 1, 2, ... (8 bytes big-endian)
//	  "hakobune/1 writer authentication"      Keys.MAC: HMAC-SHA-256(key, writer id) is the key of a writer
//	  "hakobune/1 cache authentication"       Keys.CacheMAC
//	  "hakobune/1 collection authentication"  Keys.CollectionMAC
//	  "hakobune/1 collection signature"       Keys.Sign: Ed25519, the seed of its private key
//
// "hakobune/1 put-only host" ‖ its id, of each epoch, is what the keys of a put-only host come from, and "hakobune/1 recipient"
// the key pair by which it seals for those who have the masters.
//
// A rotation adds an epoch: its seed seals from then on, and every older seed still opens. Ids and tags
// stay under epoch 1, because deduplication and the chain of manifests must outlive rotations. So the
// masters of a repository always are 1, 2, ... n, all of them, and NewKeys insists on it: with epoch 1
// missing, every chunk would silently get another id.
//
// # Sealed object
//
// An object is a clear header of 64 bytes and one DARE 2.0 stream: packages of up to 64 KiB of
// plaintext under AES-256-GCM, 32 bytes more each, 0.05 % in all.
//
//	0  "HAKO"                      12  length of encapsulation (big-endian), 0
//	4  version, 1                  14  zero (2 bytes)
//	5  type, see Type              16  salt (32 random bytes)
//	6  scheme, 1; of notices 4     48  zero (16 bytes)
//	7  mandatory flags, 0          64  stream
//	8  epoch (4 bytes big-endian)
//
// DARE has no additional data, and under one shared key whole streams and even single packages can be
// swapped. So each object has a key of its own, and everything that the object must be bound to goes
// into its derivation:
//
//	key = HKDF-SHA-256(seed of the epoch, salt, type ‖ repository id ‖ len(name) ‖ name ‖ SHA-256(header))
//
// with len(name) as 4 bytes big-endian. An altered header, another place, another repository give
// another key, and so an error. An unknown version, scheme or mandatory flag is refused, ErrNewer.
//
// Opening proves sizes first, then each package in its place, and that the last one is the last: what
// is cut, extended, reordered or mixed does not open. A range is opened in whole packages, and proves
// those packages only.
//
// # Put-only hosts
//
// A put-only host has a Credential: keys of its own, the public key of the epoch, and what verifies signatures, but no seed. What
// tells of contents it seals in scheme 2: under a secret that HPKE (RFC 9180, ML-KEM-768 with X25519) encapsulates for whoever has
// the masters, and the host's own seed besides, so that no other host can have sealed it. What it must read again, how its
// sessions began and ended and its index, it seals in scheme 3, under its seed. Marks and claims it opens and verifies, and cannot
// make. Ids of its chunks come from keys of its own and end in its writer id: nobody takes its chunks for others'.
//
// # Key slot
//
// A slot is a JSON file that wraps a Payload (repository id, configuration, all masters) for one secret.
// Of its clear part (id, kind, label, host, time) the sealed payload holds a copy, and opening compares
// the two. Each slot has exactly one encoding, and any other is refused: an altered byte never passes,
// not even one that JSON, base64 or age's armor would tolerate.
//
//   - A passphrase goes through argon2id, whose parameters are held to [19 MiB, 4 GiB] and 64 passes
//     before memory is taken, because whoever writes to the storage chooses them. From its output come
//     a key for AES-256-GCM and a commitment, which is compared first: GCM does not commit to its key,
//     and one crafted ciphertext could test many passphrases at once (Len, Grubbs, Ristenpart,
//     "Partitioning Oracle Attacks", 2021).
//   - A key file holds 32 random bytes and needs no argon2id; the rest is the same.
//   - An age slot embeds an armored age file (age-encryption.org/v1), whose plaintext is the payload in
//     JSON: plain `age -d` opens it, also when this program is gone.
//
// # What holds against whom
//
// Whoever holds the storage, and no secret, sees names, types, epochs, sizes and times of objects, and
// the clear part of slots. He cannot read content; cannot make an object, or move, alter, cut or mix
// those that are there, without it failing to open; cannot tell from ids whether a known file is
// stored. He can delete objects and put an old one back under its own name: to notice that is the
// matter of package chunkstore, not of this one. He can guess a passphrase, at the price of argon2id for
// each guess; nothing helps a weak one.
//
// Whoever knows an age recipient, which is public, and writes to the storage can make a slot that its
// identity opens, with masters of his own choice. It opens nothing that was stored before, but a
// program that then seals under it seals for him: before writing, see that the repository's objects
// open. Passphrase and key-file slots can be made by holders of the secret only.
//
// Whoever held the masters up to epoch n, and lost access, reads nothing that is sealed from epoch n+1
// on, unless he puts an old slot back and somebody backs up who notices nothing: it opens, but nothing that was
// sealed since (ErrRotated). He can still compute ids and tags, and make objects of the old epochs where he can write. A
// rotation ends reading, not writing: the storage's credentials do that.
//
// Against quantum computers hold all objects, passphrase and key-file slots, and age slots for "age1pq1"
// recipients, not those for "age1" ones.
//
// Not attempted: to erase keys from memory, or to keep them from swap and core dumps. Repeated output of
// the system's source of randomness would repeat salt and nonce, and with them the key stream of two
// objects of the same name and type.
//
// # Compatibility
//
// Everything here is frozen in version 1. The tests hold vectors and golden slots, most of them made by a
// second implementation (testdata/v1/vectors.py); each later version must pass them unaltered.
package crypto
