package main

import (
	"context"
	"os"
	"path/filepath"
)

// tool is one way to back up, with a store of its own: a bucket, or a directory.
type tool struct {
	name    string // heads its column
	bucket  string
	dir     string
	env     []string
	prepare string // makes the store
	backup  string
	list    string // what is in it
}

const (
	password  = "the wharf at low tide"
	aHakobune = "hakobune"
	aKeyFile  = "hakobune, key file"
	aRegistry = "registry: commit, push"
	aStdin    = "export | restic"
	aRestic   = "restic, directory"
)

// source is what is backed up, as each tool must be told.
type source struct {
	scenario string // keeps the stores apart
	name     string // of the container
	dir      string // where its files lie
}

// complete gives a tool a home of its own, so that nobody finds another's cache, and the keys of the store.
func (b *bench) complete(t tool, env ...string) *tool {
	t.env = append(at(b.home(&t)), "AWS_ACCESS_KEY_ID="+user, "AWS_SECRET_ACCESS_KEY="+secret, "AWS_REGION=us-east-1")
	t.env = append(t.env, env...)
	return &t
}

// at is the environment of a user whose home is there.
func at(home string) []string {
	return []string{
		"HOME=" + home, "XDG_CACHE_HOME=" + filepath.Join(home, "cache"), "XDG_CONFIG_HOME=" + filepath.Join(home, "config"),
		"XDG_STATE_HOME=" + filepath.Join(home, "state"),
	}
}

func (b *bench) home(t *tool) string { return b.path("home", t.bucket+filepath.Base(t.dir)) }

func s3URL(bucket string) string { return "s3:http://127.0.0.1:" + s3Port + "/" + bucket }

func (b *bench) newHakobune(s source) *tool {
	bucket := s.scenario + "-hakobune"
	return b.complete(tool{
		name: aHakobune, bucket: bucket, prepare: b.hakobune + " init", backup: b.hakobune + " backup --json " + s.name,
		list: b.hakobune + " snapshots --json",
	}, "HAKOBUNE_REPOSITORY="+s3URL(bucket), "HAKOBUNE_PASSWORD="+password)
}

// newKeyFile is hakobune with a key file, as a job that nobody attends should have one: no password has to
// be made expensive to guess.
func (b *bench) newKeyFile(s source) *tool {
	t := b.newHakobune(s)
	key := b.path("key-" + s.scenario)
	withPassword := "env -u HAKOBUNE_KEY_FILE HAKOBUNE_PASSWORD='" + password + "' " + b.hakobune
	bucket := t.bucket + "-key"
	return b.complete(tool{
		name: aKeyFile, bucket: bucket, backup: t.backup, list: t.list,
		prepare: withPassword + " init && " + withPassword + " key add --new-key-file " + key,
	}, "HAKOBUNE_REPOSITORY="+s3URL(bucket), "HAKOBUNE_KEY_FILE="+key)
}

// newRegistry is the way that needs nothing but Docker. It sees no volumes, and encrypts nothing.
func (b *bench) newRegistry(s source) *tool {
	image := registry + "/" + s.name
	return b.complete(tool{
		name: aRegistry, dir: b.path("registry"), prepare: "true",
		backup: "docker commit " + s.name + " " + image + " && docker push -q " + image,
		list:   "find " + b.path("registry") + " -path '*_manifests/revisions/*' -name link",
	})
}

func (b *bench) newRestic(s source, kind, name, backup string) *tool {
	bucket := s.scenario + "-restic-" + kind
	return b.complete(tool{name: name, bucket: bucket, prepare: "restic init -q", backup: backup, list: "restic snapshots"},
		"RESTIC_REPOSITORY="+s3URL(bucket), "RESTIC_PASSWORD="+password)
}

func (b *bench) resticDir(s source) *tool {
	return b.newRestic(s, "dir", aRestic, "restic backup -q "+s.dir)
}

func (b *bench) resticStdin(s source) *tool {
	return b.newRestic(s, "stdin", aStdin, "docker export "+s.name+" | restic backup -q --stdin --stdin-filename system.tar")
}

func (b *bench) newKopia(s source, kind, name, backup string) *tool {
	bucket := s.scenario + "-kopia-" + kind
	return b.complete(tool{
		name: name, bucket: bucket, backup: backup, list: "kopia snapshot list --all --show-identical",
		prepare: "kopia repository create s3 --bucket=" + bucket + " --endpoint=127.0.0.1:" + s3Port + " --disable-tls --access-key=" + user +
			" --secret-access-key=" + secret + " && kopia policy set --global --compression=zstd",
	}, "KOPIA_PASSWORD="+password, "KOPIA_CHECK_FOR_UPDATES=false")
}

func (b *bench) kopiaDir(s source) *tool {
	return b.newKopia(s, "dir", "kopia, directory", "kopia snapshot create --no-progress "+s.dir)
}

func (b *bench) kopiaStdin(s source) *tool {
	return b.newKopia(s, "stdin", "export | kopia", "docker export "+s.name+" | kopia snapshot create --no-progress --stdin-file=system.tar /"+s.name)
}

// newBorg: its exit code 1 says that a file changed while it was read, as those of a database do.
func (b *bench) newBorg(s source) *tool {
	dir := b.path("borg-" + s.scenario)
	return b.complete(tool{
		name: "borg, directory", dir: dir, prepare: "borg init -e repokey-blake2 " + dir, list: "borg list " + dir,
		backup: "borg create --compression zstd " + dir + "::{now} " + s.dir + " || [ $? = 1 ]",
	}, "BORG_PASSPHRASE="+password)
}

// nightly returns all ways to back a container up that can be had here.
func (b *bench) nightly(s source) []*tool {
	all := []*tool{b.newHakobune(s), b.newKeyFile(s)}
	if have("registry") {
		all = append(all, b.newRegistry(s))
	}
	if have("restic") {
		all = append(all, b.resticStdin(s), b.resticDir(s))
	}
	if have("kopia") {
		all = append(all, b.kopiaStdin(s), b.kopiaDir(s))
	}
	if have("borg") {
		all = append(all, b.newBorg(s))
	}
	return all
}

// forVolume returns the ways for a volume. A large one is too much for a third store.
func (b *bench) forVolume(s source, large bool) []*tool {
	all := []*tool{b.newHakobune(s)}
	if !large {
		all = append(all, b.newKeyFile(s))
	}
	if have("restic") {
		all = append(all, b.resticDir(s))
	}
	return all
}

// create makes the tools' stores.
func (b *bench) create(ctx context.Context, tools []*tool) error {
	for _, t := range tools {
		if err := os.MkdirAll(b.home(t), 0o700); err != nil {
			return err
		}
		if t.bucket != "" {
			if err := b.makeBucket(ctx, t.bucket); err != nil {
				return err
			}
		}
		if _, err := b.host.output(ctx, t.env, t.prepare); err != nil {
			return err
		}
	}
	return nil
}

// stored is what the tool's store has: the bytes of its objects or files.
func (b *bench) stored(ctx context.Context, t *tool) (int64, error) {
	if t.bucket != "" {
		return b.bucketSize(ctx, t.bucket)
	}
	return dirSize(t.dir)
}
