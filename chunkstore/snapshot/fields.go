package snapshot

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
)

// fields is a JSON object. A nil one is empty.
type fields map[string]any

// parseFields reads a JSON object; what is none has no fields. Numbers stay as they are written.
func parseFields(text string) fields {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var f map[string]any
	if d.Decode(&f) != nil {
		return nil
	}
	return f
}

// child returns the object in a field, empty if there is none.
func (f fields) child(name string) fields { return object(f[name]) }

// without returns a copy that lacks some fields.
func (f fields) without(names ...string) fields {
	c := make(fields, len(f))
	for k, v := range f {
		if !slices.Contains(names, k) {
			c[k] = v
		}
	}
	return c
}

// texts makes an object of strings.
func texts(m map[string]string) fields {
	f := make(fields, len(m))
	for k, v := range m {
		f[k] = v
	}
	return f
}

func object(v any) fields {
	switch v := v.(type) {
	case fields:
		return v
	case map[string]any:
		return v
	}
	return nil
}

// diffFields compares two values and all that they hold, in order of names. An object that only one
// side has is told field by field.
func diffFields(path string, a, b any) []FieldDiff {
	a, b = present(a), present(b)
	if reflect.DeepEqual(a, b) {
		return nil
	}
	if x, y := object(a), object(b); (a == nil || x != nil) && (b == nil || y != nil) {
		var all []FieldDiff
		for _, name := range names(x, y) {
			all = append(all, diffFields(join(path, name), x[name], y[name])...)
		}
		return all
	}
	if x, y, ok := sets(path, a, b); ok {
		return diffSets(path, x, y)
	}
	return []FieldDiff{{path, text(a), text(b)}}
}

// present makes nil of every value that says no more than a field that is not set.
func present(v any) any {
	switch x := v.(type) {
	case string:
		if x == "" {
			return nil
		}
	case bool:
		if !x {
			return nil
		}
	case json.Number:
		if x == "0" {
			return nil
		}
	case []any:
		if len(x) == 0 {
			return nil
		}
	case fields:
		if len(x) == 0 {
			return nil
		}
		return map[string]any(x)
	case map[string]any:
		if len(x) == 0 {
			return nil
		}
	}
	return v
}

// join makes the path of a field; a name that would not be seen to be one stands in brackets.
func join(path, name string) string {
	switch {
	case name == "" || strings.ContainsAny(name, ".[]/: "):
		return path + "[" + name + "]"
	case path == "":
		return name
	}
	return path + "." + name
}

// sets returns two lists of strings whose order says nothing, which it does of commands.
func sets(path string, a, b any) (x, y []string, ok bool) {
	name := path[strings.LastIndexByte(path, '.')+1:]
	if slices.Contains([]string{"Cmd", "Entrypoint", "Args", "Test", "Shell", "OnBuild"}, name) {
		return nil, nil, false
	}
	x, okA := stringsOf(a)
	y, okB := stringsOf(b)
	return x, y, okA && okB
}

func stringsOf(v any) ([]string, bool) {
	list, ok := v.([]any)
	var all []string
	for _, x := range list {
		s, isText := x.(string)
		if ok = ok && isText; !ok {
			return nil, false
		}
		all = append(all, s)
	}
	return all, ok || v == nil
}

func diffSets(path string, a, b []string) []FieldDiff {
	var all []FieldDiff
	for _, v := range a {
		if !slices.Contains(b, v) {
			all = append(all, FieldDiff{Field: path, Old: v})
		}
	}
	for _, v := range b {
		if !slices.Contains(a, v) {
			all = append(all, FieldDiff{Field: path, New: v})
		}
	}
	return all
}

// text shows a value.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil {
		return "" // unreachable: it was parsed from JSON
	}
	return strings.TrimSuffix(b.String(), "\n")
}
