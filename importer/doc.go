// Package importer turns a snapshot back into a running system, or into files and images for
// machines without Docker.
//
// A restore has three parts. Survey asks the target engine what it is and what it has. NewPlan, a
// pure function, decides from the snapshot, the survey and the options what is created, reused,
// moved aside or skipped, and what clashes. Restore does all that and then carries the plan out:
//
//   - Images: those the engine lacks are sent, without the layers it has, as an archive to its
//     image load or, where that is faster, by an image pull from a registry on the loopback
//     interface. What a container changed becomes one more layer, in an image of its own.
//   - Volumes and bind mounts are filled meanwhile.
//   - Networks, then containers, each after what it depends on; started, and waited for until
//     healthy.
//
// SyncStage makes a standby host hold most of that before it is needed: images, and the content of
// volumes and bind mounts in volumes and directories of other names. A Restore takes it over and fetches what differs.
//
// What holds when a restore fails or is cancelled: every step has registered its inverse, and the
// inverses run last to first, so that the engine is as it was; what was moved aside is put back.
// With Options.Keep nothing is undone and the Result lists what is there. A process that is killed
// undoes nothing; with Options.StateDir a journal tells what it made, which the next restore of the
// system, or Recover, takes back; once its containers are being started, the next restore goes on
// instead, for somebody may use them. What was moved aside is named NAME.hakobune-old-ID, and put back,
// unless somebody has changed what is in its place.
//
// The package knows engines only through the small interfaces of engine.go.
package importer
