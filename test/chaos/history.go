package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// history is what hosts have written down, by ids of snapshots.
type history struct {
	tried     map[string]string // the sum of what is being stored, before it is committed
	good      map[string]string // the same, after that was reported to have succeeded
	order     []string          // of the good ones, host by host
	forgotten map[string]bool   // before it was asked for
}

// note adds a line to a file, durably.
func note(file, format string, args ...any) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, format+"\n", args...); err != nil {
		return err
	}
	return f.Sync()
}

// recall reads all files of a directory. Half a line at the end of one is of a process that was killed: it said nothing yet.
func recall(dir string) (*history, error) {
	h := &history{map[string]string{}, map[string]string{}, nil, map[string]bool{}}
	files, err := filepath.Glob(filepath.Join(dir, "history.*"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if err := h.read(file); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (h *history) read(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		switch word := strings.Fields(s.Text()); {
		case len(word) == 3 && word[0] == "try":
			h.tried[word[1]] = word[2]
		case len(word) == 3 && word[0] == "good":
			h.good[word[1]] = word[2]
			h.order = append(h.order, word[1])
		case len(word) == 2 && word[0] == "forget":
			h.forgotten[word[1]] = true
		}
	}
	return s.Err()
}

// wanted returns the good snapshots that nobody asked to forget, host by host, the oldest first.
func (h *history) wanted() []string {
	var ids []string
	for _, id := range h.order {
		if !h.forgotten[id] {
			ids = append(ids, id)
		}
	}
	return ids
}
