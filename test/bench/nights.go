package main

import (
	"context"
	"fmt"
)

// nights backs the system up in the first night, after a change, and after none.
func (b *bench) nights(ctx context.Context) error {
	s, err := b.start(ctx)
	if err != nil {
		return err
	}
	image, own, err := b.sizes(ctx)
	if err != nil {
		return err
	}
	t := b.newTable("Nights of a system", true, heads(s.all))
	t.intro = fmt.Sprintf("One container: %s of image, %s of its own changes (a database and files, half of which compress).", size(image), size(own))
	read := "docker export " + s.name
	if err := b.step(ctx, t, "first night", s.all, read); err != nil {
		return err
	}
	s.backed = true
	if err := b.courses1M(ctx, 33); err != nil {
		return err
	}
	if err := b.step(ctx, t, "33 MiB added", s.all, read); err != nil {
		return err
	}
	if err := b.step(ctx, t, "nothing changed", s.all, read); err != nil {
		return err
	}
	return b.secondSystem(ctx, t, s)
}

// secondSystem backs up another container of the same image.
func (b *bench) secondSystem(ctx context.Context, t *table, s *system) error {
	const name = "hkbench-second"
	if err := b.launch(ctx, name, ""); err != nil {
		return err
	}
	hakobune := *s.all[0]
	hakobune.backup = b.hakobune + " backup --json " + name
	m, err := b.backup(ctx, &hakobune)
	if err != nil {
		return err
	}
	b.add(t, "a second system on this image", aHakobune, m)
	_, err = b.host.output(ctx, nil, "docker rm -fv "+name)
	return err
}

func heads(tools []*tool) []string {
	var all []string
	for _, t := range tools {
		all = append(all, t.name)
	}
	return all
}
