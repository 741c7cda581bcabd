package exporter

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Labels of containers that say how they are protected. The prefix is the reverse DNS name that
// Docker asks of third parties.
const (
	labelPrefix  = "io.github.hakobune-dr."
	labelEnable  = labelPrefix + "enable"  // false: never part of a system, unless named itself
	labelSystem  = labelPrefix + "system"  // name of the system that the container belongs to
	labelStop    = labelPrefix + "stop"    // true: stop instead of pause
	labelPre     = labelPrefix + "pre"     // command in the container before it is held still
	labelPost    = labelPrefix + "post"    // command in the container after it was released
	labelExclude = labelPrefix + "exclude" // paths in the container, separated by commas
	labelDrill   = labelPrefix + "drill"   // on containers of a system that is only tried out
	labelHelper  = labelPrefix + "helper"  // on containers of our own

	// Labels of others that are understood.
	labelProject = "com.docker.compose.project"
	labelOneOff  = "com.docker.compose.oneoff"
	labelOffen   = "docker-volume-backup.stop-during-backup" // offen/docker-volume-backup
)

// settings is what the labels of one container ask for.
type settings struct {
	disabled bool
	system   string
	stop     bool
	pre      []string // argv, nil: none
	post     []string
	exclude  []string
}

// systemName is what may stand before the @ and the : of a selector.
var systemName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// parseLabels reads the labels of a container. Each value that means nothing is a complaint, and
// what it would have asked for is left at its default.
func parseLabels(labels map[string]string) (s settings, complaints []string) {
	complain := func(label, want string) {
		complaints = append(complaints, fmt.Sprintf("label %s=%q is not %s", label, labels[label], want))
	}
	truth := func(label string, absent bool) bool {
		v, ok := labels[label]
		if !ok {
			return absent
		}
		switch strings.ToLower(strings.TrimSpace(v)) {
		case "true", "1", "yes", "on":
			return true
		case "false", "0", "no", "off":
			return false
		}
		complain(label, "true or false")
		return absent
	}
	command := func(label string) []string {
		argv, err := parseCommand(labels[label])
		if err != nil {
			complain(label, "a command: "+err.Error())
		}
		return argv
	}
	s.disabled = !truth(labelEnable, true)
	// offen's label names a group by any value, "true" being the usual one.
	offen := strings.ToLower(labels[labelOffen])
	s.stop = truth(labelStop, offen != "" && offen != "false")
	s.pre, s.post = command(labelPre), command(labelPost)
	s.exclude = splitList(labels[labelExclude])
	if name, ok := labels[labelSystem]; ok {
		if systemName.MatchString(name) {
			s.system = name
		} else {
			complain(labelSystem, "a name (letters, digits, and _ . - behind the first)")
		}
	}
	return s, complaints
}

// parseCommand reads a command as a Dockerfile does: a JSON array is an argv, anything else a line
// for the container's shell. An empty one is no command.
func parseCommand(s string) ([]string, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return nil, nil
	case !strings.HasPrefix(s, "["):
		return []string{"/bin/sh", "-c", s}, nil
	}
	var argv []string
	if err := json.Unmarshal([]byte(s), &argv); err != nil {
		return nil, err
	}
	if len(argv) == 0 {
		return nil, fmt.Errorf("no arguments")
	}
	return argv, nil
}

// splitList splits at commas and drops what is empty.
func splitList(s string) []string {
	var list []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}

// systemOf says which system a container belongs to when nobody names it: its label, else its
// Compose project, else it is one of its own.
func systemOf(c snapshot.Container) (string, snapshot.Source) {
	if s, _ := parseLabels(c.Labels); s.system != "" {
		return s.system, snapshot.ByLabel
	}
	if project := c.Labels[labelProject]; project != "" {
		return project, snapshot.ByCompose
	}
	return c.Name, snapshot.ByContainer
}
