package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// siteFlag says which site this host is.
func siteFlag() cli.Flag {
	return &cli.StringFlag{Name: "site", Usage: "this host is at the site `NAME`; by default a site of its own, called as the host is [HAKOBUNE_SITE]"}
}

// site returns where this host is. A site that is only called as its host is has an id too, which the state
// directory remembers: hosts of the same name are two sites.
func (p *program) site(c *cli.Context, host string) (snapshot.Site, error) {
	name, err := p.flag(c, "site", "SITE")
	if err != nil || name != "" {
		return snapshot.Site{Name: name}, validSite(name, err)
	}
	dir := p.stateDir()
	if dir == "" {
		return snapshot.Site{Name: host}, nil
	}
	id, err := siteID(dir)
	if err != nil {
		return snapshot.Site{}, fmt.Errorf("id of this site: %w", err)
	}
	return snapshot.Site{Name: host, ID: id}, nil
}

// validSite refuses names that no two people would read alike.
func validSite(name string, err error) error {
	if err == nil && (len(name) > 100 || strings.TrimSpace(name) != name || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f })) {
		return usage("%q is no name of a site: at most 100 bytes, no control characters, no spaces around it", name)
	}
	return err
}

// siteID reads the id in the state directory, or makes one.
func siteID(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	f, err := os.OpenFile(filepath.Join(dir, "site"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return "", err
	}
	if b, err := hex.DecodeString(strings.TrimSpace(string(text))); err == nil && len(b) == 8 {
		return hex.EncodeToString(b), nil
	}
	var random [8]byte
	rand.Read(random[:])
	id := hex.EncodeToString(random[:])
	_, err = f.WriteAt([]byte(id+"\n"), 0)
	return id, errors.Join(err, f.Sync())
}
