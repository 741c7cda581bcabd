package docker

import (
	"bytes"
	"encoding/json"
)

// object is a JSON object whose fields, known to this package or not, are to survive being changed
// here and there. Numbers keep their digits.
type object map[string]any

func parseObject(raw []byte) (object, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var o object
	err := decoder.Decode(&o)
	return o, err
}

// child returns the object in a field, which it becomes part of o if there was none.
func (o object) child(key string) object {
	switch found := o[key].(type) {
	case object:
		return found
	case map[string]any:
		return found
	}
	made := object{}
	o[key] = made
	return made
}

// text returns the string in a field, empty if it holds none.
func (o object) text(key string) string {
	s, _ := o[key].(string)
	return s
}

// texts returns the strings of the list in a field.
func (o object) texts(key string) []string {
	list, _ := o[key].([]any)
	var texts []string
	for _, item := range list {
		if s, ok := item.(string); ok {
			texts = append(texts, s)
		}
	}
	return texts
}

// children returns the objects of the list in a field, to be changed in place.
func (o object) children(key string) []object {
	list, _ := o[key].([]any)
	var children []object
	for _, item := range list {
		if child, ok := item.(map[string]any); ok {
			children = append(children, child)
		}
	}
	return children
}

// drop removes fields.
func (o object) drop(keys ...string) {
	for _, key := range keys {
		delete(o, key)
	}
}
