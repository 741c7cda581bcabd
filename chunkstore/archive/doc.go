// Package archive holds what a snapshot keeps of files, in two kinds.
//
// A tree is a directory as canonical records of our own: a container's changes, a volume, a bind
// mount. Tars that engines make of these differ between versions, and lose extended attributes,
// nanoseconds, sockets and holes; the same tree must give the same records on every engine.
//
// A layer is a part of an image, named by its DiffID, the SHA-256 of its tar. It must come back
// byte for byte, so it is a recipe of how to put the stream together.
//
// The contents of both are data chunks in the repository. This package knows nothing of keys,
// packs or backends; it asks a chunkstore.Session to save and a chunkstore.Repository to read.
// docs/format.md has the bytes of records and recipes as tables; here is why they are so.
//
// # Trees
//
// A Tree is what can be walked and opened: a directory, seen from here or through a helper, or a
// tar of an engine (TarTree). WriteTree makes records of it, TreeReader gives records and contents
// back, WriteTar a tar.
//
// Records stand in the order of Compare: a directory, then all that it holds, then its next
// sibling. So two trees, or a tree and its records of yesterday, are compared by reading both once,
// side by side, in no memory; a part of a tree is one run of records; and a record that lies beneath
// something that is no directory is found by looking at the one before.
//
// A record is canonical: there is one way to write it, and a Decoder accepts no other. Paths are
// relative and clean, attributes sorted, numbers in their shortest form, extents in turn hole and
// data and together the size of the file. Nobody has to ask what a second way would mean, a stream
// that decodes encodes to the same bytes, and unchanged records give unchanged metadata chunks. For
// the same reason a record has nothing that changes by itself: no device numbers of file systems,
// which a reboot may deal anew, no link counts, and inode and ctime of files only.
//
// # What is read again
//
// A file is taken to be unchanged if size, mtime, ctime, inode, mode and owner are those of its
// record, and all its chunks are still there. ctime is what makes this safe: no program can set it,
// so an edit that puts the mtime back is seen. It is not trusted where it cannot tell: of a file
// whose ctime is less than 20 ms older than the start of the walk, a later write may leave the same
// ctime, because the kernel's clock ticks at 100 Hz; of a file that changed while it was read, or
// that comes from a tar, or from a file system that does not keep ctimes so. These are recorded with a
// ctime of zero, and read again next time. A write through a mapping to a page that is dirty already
// changes no time: a Tree sends dirty pages to disk before it reads them (exporter's Dir does).
//
// Nor are the extended attributes of such a file read, where the Tree is a StatWalker.
//
// A file that changes while it is read shows by its stat afterwards. A small one is read once more.
// A large one, or a restless one, is recorded as Torn with the size that it had at first. The usual
// backup avoids that: it reads trees while the system runs, into a Spool, then holds the system
// still and reads what changed since (the Spool is Previous of the next pass).
//
// # How contents are cut
//
// A file of up to 512 bytes lies in its record. A file of more than 128 KiB is cut by content, in
// segments of 64 MiB that know nothing of each other, so that they can be read in parallel. Those
// between are put together, as they follow each other among the files that are read, into bundles
// of at most 2 MiB: a chunk for each would cost more in index, table and compression than it saves.
//
// A bundle ends after a path whose CRC-32 (IEEE) has its low eight bits zero, one in 256; before it
// would exceed 2 MiB; and at a larger file. The first of these makes bundles stable: where the next
// one begins depends on no content and on no neighbour, so what changes, comes or goes touches its
// own bundle and, where bundles are cut by size, at most the few up to the next such path. In the
// usual case nothing of a bundle is read at all: its files' records still name their pieces of it.
//
// Layers are cut by the same rules, by the names in the tar. So a large file that a container copied
// up and did not change is in the repository already.
//
// None of this concerns a reader: a record names pieces of chunks, whatever they are.
//
// # Layers
//
// SaveLayer lets a tar reader find the files in the stream, through a reader that keeps everything
// which the tar reader takes for itself: headers, padding, what it skips. Each byte read goes into
// the recipe or into a chunk, so the parts make up the stream by construction. Where the tar reader
// stops, be it at the end, at something broken, or at the start of what is no tar, the rest is cut as
// one content. Nothing has to be read a second time, which a stream from an engine could not be.
//
// vbatts/tar-split, in which engines keep their own layers, does the same but for sparse members: it
// gives these back expanded (of 20480 bytes by GNU tar --sparse it made 2109440).
//
// The steps depend on the stream alone. Whoever saves a layer in a repository stores the same
// chunks, the same recipe and the same descriptor; so the descriptor that came first, which stays,
// is as good as any later one, and a layer of which some chunks went missing is whole again once it
// is saved again. Later versions of this program must keep the cuts or use another name.
//
// The digest is compared before the descriptor is stored, and by OpenLayer before the last byte is
// handed over.
//
// # Trust
//
// Chunks are verified by their ids, so records and recipes come from whoever had the keys. They are
// parsed all the same as if from anybody: lengths cost no memory before the bytes are there, every
// number has a limit, a stream that ends early is an error, and no path leads out of the tree. That
// an unpacking stays inside its directory is for the importer to see to: a symlink in a tree may
// point anywhere.
package archive
