// Package chunkstore is the repository: encrypted, deduplicated chunks and the snapshots made of
// them, on any Backend. docs/format.md has every byte; this is what the parts are for.
//
// # Terms
//
// A chunk is a piece of content, cut by content, named by a keyed hash of its plaintext (ID). A
// pack is an object that holds many chunks, sealed as one, so that neither their number nor their
// sizes show. The index says in which pack each chunk lies. A stream is a long sequence of
// metadata kept as chunks of its own. A session adds one snapshot and ends in an outcome. A writer
// is a host, or a process of one.
//
// # Writing
//
// Begin announces a session, then reads the index. Split cuts content where restic/chunker v0.5.0
// would, which is part of the format: the library defines the cuts, is the oracle of the tests, and
// does the work where our own scanner cannot (newRabin). Save takes chunks: those that are known
// cost a look-up, others go through a pipeline that compresses, packs, seals, verifies each pack
// from its sealed bytes, and uploads; every stage is bounded, so a slow store holds back whoever
// reads files. Commit waits for all of it, publishes the index, and creates the outcome last, by a
// conditional write: a snapshot is there whole or not at all.
//
// Hosts need no locks among each other. Nothing that exists is changed, a writer's objects carry
// its name, and the only moment in which two could disagree is decided by who creates the outcome:
// the session, or a collection that gave it up for dead (ErrFenced). Stores without conditional
// writes get the slower fallback of Session.Commit.
//
// # Index
//
// An index of millions of chunks does not belong into the memory of a process that runs each night.
// Where there are many, the index objects are merged into one sorted file of this host's own, the
// base: in the cache directory, where later runs use it and read only what came since, or, without
// one, in an unlinked temporary file. Merging takes bounded memory. A lookup reads a few entries of
// the base from the system's page cache, by a small table in memory, without a lock. A base is used
// only if it is authentic, which one reading of it tells, and if all index objects that it was made
// of are still there; otherwise it is made anew. What a process uploads itself, and what came after the
// base, it holds in memory, as it does the whole of a small index.
//
// # Keys
//
// Key slots wrap the master secrets of all key epochs. RotateKeys begins another epoch and puts every slot that stays
// anew; processes that opened the repository before go on in theirs.
//
// # Put-only hosts
//
// A put-only host (Host, OpenHost) adds snapshots and can open nothing of them. Its chunks are a Domain of their own: it shares none
// with others, for it could give them wrong ones, and what is of it needs nothing of others. Collections delete packs of it that
// nothing needs, and leave the others as they are.
//
// # Claims and records
//
// A claim is a number of a series that exactly one host gets, whatever the store can do and however many want it at
// once: package snapshot makes of it whose a system is. A record is something that was done and is to be proved
// later. Neither is ever changed or collected.
//
// # Forgetting and collecting
//
// Forget takes snapshots out of the lists by a record; Collect gives back what no snapshot needs. Neither
// needs a lock, and neither relies on a backup being short: what a session that runs may rely on is marked
// first and deleted when that session has ended, after another look at what is needed then.
// docs/format.md has the steps and what holds at each moment; protocol_test.go explores them in a model.
//
// # After a crash
//
// At any moment the store holds all earlier snapshots whole. What a killed session uploaded and
// indexed is found and used by the next one; what it did not index is a pack that no index names,
// which harms nobody.
//
// # Forgetting
//
// Forget changes no snapshot: it adds a record that names those no longer wanted, and lists leave them out.
// Records of several hosts add up. One that cannot be read counts for nothing, so that damage brings
// snapshots back rather than lose them.
//
// # Locks
//
// A repository may be made so that the store locks its objects (Lock, Locker). A lock alone keeps a version from being
// deleted, not from being hidden: so of such a repository what was put first under a name is what is there, whatever was put
// over it or deleted since. Each session extends the locks of what its snapshot needs before it commits, and looks whether
// it is there: so it may pass over objects that do not open, which anybody who can write to the store could put and lock.
//
// # Reading
//
// Read fetches the chunks that are asked for next, grouped by pack into ranges, several at a
// time, and hands over nothing that is not verified against its id. Metadata packs are fetched whole
// and kept: in memory, and in a cache directory as they are stored. The cache is never trusted; it
// may be deleted, and shared by processes.
//
// # Errors
//
// ErrNoRepository, crypto.ErrWrongKey, crypto.ErrNewer and crypto.ErrDamaged say why a repository or
// an object of it cannot be opened; ErrChunkMissing that a snapshot needs what no index lists; ErrFenced and ErrPackGone
// that a session ended without one, and that the next one may do better.
// Backends return the sentinels of backend.go.
package chunkstore
