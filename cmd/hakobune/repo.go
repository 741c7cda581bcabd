package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/local"
	"github.com/hakobune-dr/hakobune/chunkstore/s3"
	"github.com/hakobune-dr/hakobune/crypto"
)

// repoName returns where the repository is, as the user said it.
func (p *program) repoName(c *cli.Context) (string, error) {
	name, err := p.flag(c, "repo", "REPOSITORY")
	if err == nil && name == "" {
		return "", usage("which repository?").hint("give -r DIR or -r s3:https://host/bucket/prefix, or set HAKOBUNE_REPOSITORY")
	}
	return name, err
}

// firstAnswer is how long a store may fail to answer at all before the command gives up; later, in
// the middle of work, --retry holds.
const firstAnswer = 20 * time.Second

// repository returns the backend of the repository that the flags name; there must be one.
func (p *program) repository(c *cli.Context) (chunkstore.Backend, error) {
	b, exists, err := p.backend(c, false)
	if err == nil && !exists {
		err = fmt.Errorf("%s: %w", b.Location(), chunkstore.ErrNoRepository)
	}
	return b, err
}

// backend opens the place that the flags name and reports whether a repository is there. With
// create, a missing directory or bucket is made.
func (p *program) backend(c *cli.Context, create bool) (chunkstore.Backend, bool, error) {
	b, err := p.place(c, create)
	if err != nil {
		return nil, false, err
	}
	return p.lookInto(c, b)
}

// existing opens the place of a second repository; there must be one.
func (p *program) existing(c *cli.Context, name, profile string) (chunkstore.Backend, error) {
	b, err := p.placeAt(c, name, profile, false)
	if err != nil {
		return nil, err
	}
	b, exists, err := p.lookInto(c, b)
	if err == nil && !exists {
		err = fmt.Errorf("%s: %w", b.Location(), chunkstore.ErrNoRepository)
	}
	return b, err
}

// lookInto reports whether a repository is at b, and returns b with the patience that the flags give it.
func (p *program) lookInto(c *cli.Context, b chunkstore.Backend) (chunkstore.Backend, bool, error) {
	patience := p.patience(c)
	retry := chunkstore.RetryOptions{Log: p.logger(c), MaxElapsed: min(firstAnswer, patience)}
	exists, err := chunkstore.Exists(c.Context, chunkstore.Retry(b, retry))
	switch {
	case errors.Is(err, chunkstore.ErrNoStore):
		return nil, false, fmt.Errorf("%s: %w: %w", b.Location(), chunkstore.ErrNoRepository, err)
	case err != nil:
		return nil, false, err
	}
	retry.MaxElapsed = patience
	return chunkstore.Retry(b, retry), exists, nil
}

// place opens what the flags name, without looking into it.
func (p *program) place(c *cli.Context, create bool) (chunkstore.Backend, error) {
	name, err := p.repoName(c)
	if err != nil {
		return nil, err
	}
	return p.placeAt(c, name, "", create)
}

// otherPlace opens a second place, for writing. It creates a directory that is missing, and a bucket if it is told to.
func (p *program) otherPlace(c *cli.Context, name, profile string, createBucket bool) (chunkstore.Backend, error) {
	b, err := p.placeAt(c, name, profile, !s3.IsURL(name) || createBucket)
	if err != nil {
		return nil, err
	}
	return chunkstore.Retry(b, chunkstore.RetryOptions{Log: p.logger(c), MaxElapsed: p.patience(c)}), nil
}

// patience is how long a store may fail to answer.
func (p *program) patience(c *cli.Context) time.Duration {
	patience := given(c, "retry").Duration("retry")
	if patience == 0 {
		patience = -1 // no retries; to RetryOptions 0 is its default
	}
	return patience
}

// placeAt opens a place; profile, if it is not empty, says whose keys open a bucket.
func (p *program) placeAt(c *cli.Context, name, profile string, create bool) (chunkstore.Backend, error) {
	up, err := rate(c, "limit-upload")
	if err != nil {
		return nil, err
	}
	down, err := rate(c, "limit-download")
	if err != nil {
		return nil, err
	}
	if s3.IsURL(name) {
		return p.openS3(c, name, profile, create, up, down)
	}
	b, err := openLocal(name, create)
	if err != nil {
		return nil, err
	}
	return chunkstore.Limit(b, up, down), nil
}

func openLocal(name string, create bool) (chunkstore.Backend, error) {
	if create {
		if err := local.Create(name); err != nil {
			return nil, err
		}
	}
	b, err := local.Open(name, local.Options{})
	if errors.Is(err, chunkstore.ErrNoStore) {
		return nil, fmt.Errorf("%s: %w", name, chunkstore.ErrNoRepository)
	}
	return b, err
}

func (p *program) openS3(c *cli.Context, name, profile string, create bool, up, down int64) (chunkstore.Backend, error) {
	cfg, err := s3.ParseURL(name)
	if err != nil {
		return nil, usage("%v", err)
	}
	p.env.configureS3(&cfg)
	if profile != "" {
		cfg.Profile, cfg.OnlyProfile = profile, true
	}
	if f := given(c, "ca-file").String("ca-file"); f != "" {
		cfg.CAFile = f
	}
	cfg.Lookup = s3.Lookup(given(c, "s3-lookup").String("s3-lookup"))
	if cfg.DataClass, err = p.flag(c, "data-class", "DATA_CLASS"); err != nil {
		return nil, err
	}
	cfg.UploadRate, cfg.DownloadRate = up, down
	cfg.NewLocked = c.String("object-lock") != ""
	b, err := s3.Open(c.Context, cfg)
	if err != nil {
		return nil, err
	}
	if create {
		err = b.CreateBucket(c.Context)
	}
	return b, err
}

// rate reads a flag of bytes a second; 0 means no limit.
func rate(c *cli.Context, flag string) (int64, error) {
	s := given(c, flag).String(flag)
	if s == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(s)
	if err != nil || n == 0 || n > 1<<40 {
		return 0, usage("--%s %q is not a rate", flag, s).hint("such as 5MiB for five mebibytes a second")
	}
	return int64(n), nil
}

// open opens the repository.
func (p *program) open(c *cli.Context) (*chunkstore.Repository, error) {
	opts, err := p.cached(c)
	if err != nil {
		return nil, err
	}
	return p.openWith(c, opts)
}

func (p *program) openWith(c *cli.Context, opts chunkstore.Options) (*chunkstore.Repository, error) {
	open, err := p.opening(c, opts, chunkstore.Open)
	if err != nil {
		return nil, err
	}
	return open()
}

// openFunc opens a repository: chunkstore.Open, or openAny where a put-only credential will do.
type openFunc func(context.Context, chunkstore.Backend, crypto.Secret, chunkstore.Options) (*chunkstore.Repository, error)

// openAny opens a repository by what opens it, or by the credential of a put-only host.
func openAny(ctx context.Context, b chunkstore.Backend, secret crypto.Secret, opts chunkstore.Options) (*chunkstore.Repository, error) {
	if credential, ok := secret.(*crypto.Credential); ok {
		return chunkstore.OpenHost(ctx, b, credential, opts)
	}
	return chunkstore.Open(ctx, b, secret, opts)
}

// opening finds the repository and its password, if need be by asking for it, and returns what opens
// it: a password takes its time to become a key.
func (p *program) opening(c *cli.Context, opts chunkstore.Options, open openFunc) (func() (*chunkstore.Repository, error), error) {
	b, err := p.repository(c) // before the password: nobody wants to type it for nothing
	if err != nil {
		return nil, err
	}
	secret, err := p.secret(c, false)
	if err != nil {
		return nil, err
	}
	return func() (*chunkstore.Repository, error) { return open(c.Context, b, secret, opts) }, nil
}

func (p *program) cached(c *cli.Context) (chunkstore.Options, error) {
	cache, err := p.cacheDir(c)
	return chunkstore.Options{CacheDir: cache, StateDir: p.stateDir(), Logger: p.logger(c)}, err
}

// secret finds what opens the repository: a key file, or a password from a file, a command, the
// environment, or the terminal, in this order. A new password is asked for twice.
func (p *program) secret(c *cli.Context, fresh bool) (crypto.Secret, error) {
	if path := p.keyFile(c); path != "" {
		return readKeyFile(path)
	}
	password, err := p.password(c, fresh)
	if err != nil {
		return nil, err
	}
	if len(password) == 0 {
		return nil, usage("the password is empty")
	}
	return crypto.Passphrase(password), nil
}

// readKeyFile reads a key file of ours, age identities, or the credential of a put-only host.
func readKeyFile(path string) (crypto.Secret, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if bytes.Contains(b, []byte("AGE-SECRET-KEY-")) {
		return crypto.AgeIdentities(bytes.NewReader(b))
	}
	if crypto.IsCredential(b) {
		return crypto.ParseCredential(b)
	}
	return crypto.KeyFile(b), nil
}

func (p *program) password(c *cli.Context, fresh bool) ([]byte, error) {
	file := given(c, "password-file").String("password-file")
	command := given(c, "password-command").String("password-command")
	if password, err := p.passwordOf(c, file, command, ""); password != nil || err != nil {
		return password, err
	}
	return p.ask(fresh)
}

// passwordOf finds a password where flags, or variables with the given beginning, say that it is; nil where
// nothing says so.
func (p *program) passwordOf(c *cli.Context, file, command, env string) ([]byte, error) {
	if file != "" {
		return firstLineOf(os.ReadFile(file))
	}
	if command != "" {
		return p.passwordCommand(c.Context, command)
	}
	if v, err := p.env.own(env + "PASSWORD"); v != "" || err != nil {
		return []byte(v), err
	}
	command, err := p.env.own(env + "PASSWORD_COMMAND")
	if command == "" || err != nil {
		return nil, err
	}
	return p.passwordCommand(c.Context, command)
}

func (p *program) passwordCommand(ctx context.Context, command string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Stderr = p.err
	cmd.WaitDelay = time.Second
	out, err := firstLineOf(cmd.Output())
	if err != nil {
		return nil, fmt.Errorf("password command: %w", err)
	}
	return out, nil
}

// firstLineOf returns what is never nil, though it may be empty.
func firstLineOf(b []byte, err error) ([]byte, error) {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return append([]byte{}, bytes.TrimSuffix(line, []byte("\r"))...), err
}

// ask reads a password from the terminal, without echo.
func (p *program) ask(twice bool) ([]byte, error) {
	fd := int(p.in.Fd())
	if !term.IsTerminal(fd) {
		return nil, usage("no password given, and no terminal to ask on").
			hint("set HAKOBUNE_PASSWORD_FILE, or give -p FILE, --password-command or --key-file")
	}
	prompt := func(text string) ([]byte, error) {
		fmt.Fprint(p.err, text)
		b, err := term.ReadPassword(fd)
		fmt.Fprintln(p.err)
		return b, err
	}
	first, err := prompt("password of the repository: ")
	if err != nil || !twice {
		return first, err
	}
	second, err := prompt("the same again: ")
	if err == nil && !bytes.Equal(first, second) {
		return nil, usage("the two passwords differ")
	}
	return first, err
}

// keyFile returns the key file that flag or environment name, or "".
func (p *program) keyFile(c *cli.Context) string {
	return cmp.Or(given(c, "key-file").String("key-file"), p.env.get("HAKOBUNE_KEY_FILE"))
}

// secretGiven is secret, but for what would be asked for: nil then.
func (p *program) secretGiven(c *cli.Context) (crypto.Secret, error) {
	if p.keyFile(c) != "" {
		return p.secret(c, false)
	}
	file, command := given(c, "password-file").String("password-file"), given(c, "password-command").String("password-command")
	password, err := p.passwordOf(c, file, command, "")
	if len(password) == 0 || err != nil {
		return nil, err
	}
	return crypto.Passphrase(password), nil
}
