// Package exporter makes snapshots: it finds the containers of a system, holds them still for as
// short as it can, and stores what they are and hold in a repository.
//
// # A system
//
// Discover sorts containers into systems: by label, by Compose project, or one of its own.
// MakePlan says what a snapshot of one will hold and how each part is read; Export makes it.
//
// # What is read, and how
//
// Of each image the layers that the repository does not know, as the byte-exact tar streams that
// their DiffIDs name. Of each container its changes, in the first way that works, see Way. Of each
// volume and bind mount its files. What is not read is in the snapshot with its reason: as a note
// where that lies in its nature (a socket, /proc, memory, what somebody excluded), as a problem
// where a restore will miss it. A snapshot with a problem is incomplete, and says so.
//
// # Consistency
//
// While the containers run, everything is copied, and what has changed since is copied again, until
// little changes between two passes, or three times. Then all running containers of the system are
// held still together, one more pass reads what has moved since, and they are let go, at once:
// before anything is uploaded to the end or committed. So the snapshot holds the files of all
// containers and volumes as they were at one moment, as after a loss of power: what a database
// recovers from. Where a container is paused one by one, each effect in the snapshot has its cause
// in it too, because no container that was paused acted on one that was not.
//
// Commands in the containers (labels or options) run before the last passes and after the release;
// the files that a command writes are in the snapshot.
//
// # Containers go on
//
// Containers that Export holds go on whatever happens:
//
//   - after an error, a panic, the end of the context (so SIGINT and SIGTERM) or the loss of the
//     store: at once, as soon as the engine answers;
//   - when they have stood for Options.MaxPause: by force. The snapshot is then incomplete;
//   - when this process is killed: by the guard (Guard), a process of its own that knows what is held
//     before it is. It lets them go in the moment in which the process ends, and watches for 5 s
//     whether the engine still carries out a pause that was under way. So none stands longer than
//     6 s after the kill; containers in mode Stop start again within their grace period and 5 s;
//   - when this process itself stands still (SIGSTOP, swapped out): by the guard, 5 s after MaxPause;
//   - when guard and process are killed together, or the machine fails: by the next run, which
//     finds the journal in Options.StateDir.
//
// What somebody else had paused stays paused, and the container that this program itself runs in is
// never held.
package exporter
