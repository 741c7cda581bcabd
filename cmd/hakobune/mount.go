package main

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/importer/mount"
)

func (p *program) mountCommand() *cli.Command {
	return &cli.Command{
		Name:      "mount",
		Usage:     "show the snapshots as a read-only file system",
		ArgsUsage: "DIR",
		Description: `Mounts all snapshots at the directory DIR until it is unmounted (umount DIR) or interrupted (Ctrl-C):

   SYSTEM/latest/...                            the newest
   SYSTEM/2026-11-20T02.00.00Z-1f0c9a52/
      system.json                               what was recorded of the system
      containers/NAME/...                       what a container wrote on top of its image
      volumes/NAME/...
      binds/SOURCE/...                          slashes written as %2F

Owners, modes, times, links, holes, devices and extended attributes are those recorded; what a container deleted
is a character device 0:0, as overlayfs has it. Files are read from the repository when they are read. What cannot
be read is an input/output error. Snapshots that come later are seen after the next mount. Needs /dev/fuse: root,
or fusermount3 for other users. After the program was killed, umount DIR.

   hakobune mount /mnt/ark
   hakobune mount --system shop --tag kept /mnt/ark &
   cp -a /mnt/ark/shop/latest/volumes/shop_db/data ./data && umount /mnt/ark`,
		Flags: append(filterFlags(),
			&cli.BoolFlag{Name: "allow-other", Usage: "let other users in, as far as the modes of the files do"},
		),
		Action: p.mount,
	}
}

type mountLine struct {
	Type      string `json:"message_type"`
	Dir       string `json:"dir"`
	Snapshots int    `json:"snapshots"`
}

func (p *program) mount(c *cli.Context) error {
	dir, err := one(c, "a directory")
	if err != nil {
		return err
	}
	repo, cat, err := p.openCatalog(c)
	if err != nil {
		return err
	}
	p.tellDamage(cat)
	list := filter(c).Apply(cat.Snapshots)
	line := mountLine{"mounted", dir, len(list)}
	err = mount.Serve(c.Context, repo, cat, list, dir, mount.Options{
		AllowOther: c.Bool("allow-other"), Logger: p.logger(c),
		Ready: func() {
			_ = p.result(c, line, func() {
				fmt.Fprintf(p.out, "%d snapshots at %s; umount it, or Ctrl-C here, ends it\n", line.Snapshots, dir)
			})
		},
	})
	if errors.Is(err, syscall.ENODEV) {
		err = withHint(err, "the kernel has no FUSE: modprobe fuse")
	}
	return err
}
