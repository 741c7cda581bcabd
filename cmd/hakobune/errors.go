package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/failover"
	"github.com/hakobune-dr/hakobune/internal/docker"
)

// The exit codes; README has the table.
const (
	exitFailed       = 1
	exitUsage        = 2
	exitIncomplete   = 3
	exitDamage       = 4
	exitNoRepository = 10
	exitWrongKey     = 12
	exitMissed       = 20
	exitDrill        = 21
	exitOwned        = 22
	exitBack         = 23
	exitInterrupted  = 130
)

// errUsage marks errors of the command line.
var errUsage = errors.New("usage")

// hintedError is an error with a next step for the person who reads it.
type hintedError struct {
	err   error
	text  string
	usage bool
}

func (e *hintedError) Error() string { return e.err.Error() }

// Hint returns the next step; errors of other packages have such a method too.
func (e *hintedError) Hint() string { return e.text }

func (e *hintedError) Unwrap() error { return e.err }
func (e *hintedError) Is(t error) bool {
	return t == errUsage && e.usage
}

// hint sets the next step.
func (e *hintedError) hint(format string, args ...any) *hintedError {
	e.text = fmt.Sprintf(format, args...)
	return e
}

// usage returns an error of the command line.
func usage(format string, args ...any) *hintedError {
	return &hintedError{err: fmt.Errorf(format, args...), usage: true}
}

// withHint adds a next step to err.
func withHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return (&hintedError{err: err}).hint(format, args...)
}

// exitCode is the one place where errors become exit codes. Only where the command was interrupted
// does a cancelled context mean so: parts of it that failed cancel others.
func exitCode(err error, interrupted bool) int {
	var owned *snapshot.OwnedError
	var drill *importer.DrillError
	var standIn *failover.StandInError
	switch {
	case errors.Is(err, errUsage):
		return exitUsage
	case interrupted && errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &owned):
		return exitOwned
	case errors.As(err, &standIn) && standIn.Back: // whatever the reason
		return exitBack
	case errors.As(err, &drill): // whatever the reason
		return exitDrill
	case errors.Is(err, chunkstore.ErrNoRepository):
		return exitNoRepository
	case errors.Is(err, crypto.ErrWrongKey), errors.Is(err, crypto.ErrPutOnly), errors.Is(err, chunkstore.ErrHostRemoved):
		return exitWrongKey
	case errors.Is(err, crypto.ErrDamaged), errors.Is(err, chunkstore.ErrChunkMissing), errors.Is(err, chunkstore.ErrPackGone):
		return exitDamage
	}
	return exitFailed
}

// hintFor returns the next step after err, or "".
func hintFor(err error, interrupted bool) string {
	var (
		h       interface{ Hint() string }
		unknown *exporter.UnknownSystemError
		start   *importer.StartError
		drill   *importer.DrillError
		hook    *exporter.HookError
		owned   *snapshot.OwnedError
	)
	switch {
	case errors.As(err, &h) && h.Hint() != "": // also where it was interrupted: it may say that something does not run
		return h.Hint()
	case interrupted && errors.Is(err, context.Canceled):
		return "it was interrupted; the same command again goes on, or begins anew with what is left of it"
	case errors.As(err, &owned):
		return fmt.Sprintf("only its own site backs a system up; if site %s is gone for good, hakobune backup --force %s %[2]s takes the system for this one", owned.Term.Site.Name, owned.Term.System)
	case errors.Is(err, chunkstore.ErrNoRepository):
		return "check -r / HAKOBUNE_REPOSITORY, or create the repository with: hakobune init"
	case errors.Is(err, chunkstore.ErrHostRemoved):
		return "whoever has the keys of the repository took this credential back; another one: hakobune key add-host"
	case errors.Is(err, chunkstore.ErrHostRotated):
		return "ask those who have the keys for another one: hakobune key add-host --renew NAME"
	case errors.Is(err, chunkstore.ErrHostBusy):
		return "two backups of one put-only host run one after the other"
	case errors.Is(err, crypto.ErrPutOnly):
		return "only hakobune backup takes a put-only credential; all else needs a password or key file of the repository"
	case errors.Is(err, crypto.ErrRotated):
		return "the keys were rotated since this process, or an old copy of a key slot, had them: run the command again with a password or key that hakobune key list shows"
	case errors.Is(err, chunkstore.ErrRotating):
		return "end it with that secret: hakobune key rotate; if nobody has it any more, remove the newest slot of hakobune key list first"
	case errors.Is(err, crypto.ErrWrongKey):
		return "no key slot fits this password or key file; hakobune key list shows which slots there are"
	case errors.Is(err, chunkstore.ErrMarks) && errors.Is(err, crypto.ErrNewer):
		return "a newer version wrote this: update hakobune on this host; what the newest one cannot read either somebody else has put there: delete the object in the store, once its lock has ended"
	case errors.Is(err, crypto.ErrNewer):
		return "a newer version wrote this; update hakobune on this host"
	case errors.Is(err, chunkstore.ErrMarks) && !chunkstore.IsPassing(err):
		return "hakobune repair index deletes it when its prune does not run, and lists anew what is stored"
	case errors.Is(err, chunkstore.ErrPackGone):
		return "run the command again: it stores anew what the lost packs held; hakobune check tells which snapshots need them"
	case errors.Is(err, chunkstore.ErrNoPack):
		return "hakobune check tells the names of damaged packs"
	case chunkstore.IsPassing(err):
		return "the store did not give it for now, which says nothing of what is stored: run the command again, or let it wait for longer with --retry"
	case errors.Is(err, crypto.ErrDamaged), errors.Is(err, chunkstore.ErrChunkMissing):
		return "hakobune check says what is damaged and which snapshots it touches; hakobune repair saves what is left"
	case errors.Is(err, chunkstore.ErrNoStore):
		return "the bucket or directory is missing; for a new repository: hakobune init --create-bucket"
	case errors.Is(err, chunkstore.ErrArchived):
		return "hakobune thaw SNAPSHOT brings back what is archived, and waits for it; then run the command again"
	case errors.Is(err, chunkstore.ErrLocked):
		return "it can be deleted once its lock has ended; until then it opens and holds what it did"
	case errors.Is(err, chunkstore.ErrAccess):
		return "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may do with the bucket"
	case errors.Is(err, docker.ErrDown):
		return "is the engine running, and may this user speak to it? hakobune doctor tells more"
	case errors.Is(err, syscall.ENOSPC):
		return "free some space and run the command again; nothing that was complete is lost"
	case errors.As(err, &unknown):
		return "hakobune backup -n --all lists the systems of this engine"
	case errors.As(err, &start) && portTaken(start):
		return "another process of the host has the port; stop it, or publish the port elsewhere with --port OLD:NEW"
	case errors.As(err, &drill):
		return "the record of it is in the repository; hakobune restore --as NAME --keep shows the system as it fails"
	case errors.As(err, &start):
		return "restore with --no-start to look at the container first, or with --keep to find it as it failed"
	case errors.As(err, &hook):
		return "no snapshot was made; mend the command, or let --ignore-hook-errors make an incomplete one"
	case strings.Contains(err.Error(), "permission denied"):
		return "run as root: other users cannot read or write the files of containers"
	}
	return ""
}

// portTaken reports whether a container did not start because of a port that it publishes. Engines
// say so only in words.
func portTaken(e *importer.StartError) bool {
	return strings.Contains(e.Why, "address already in use") || strings.Contains(e.Why, "port is already allocated")
}
