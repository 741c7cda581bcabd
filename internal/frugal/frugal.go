// Package frugal reads JSON that may be hostile: what is stored, and what other hosts say.
//
// encoding/json takes as much memory as a text asks for, and little text can ask for much: "{}," is three bytes, and an element of
// a list of whatever structs it is read into; a list that grows takes several times its size; each level of brackets costs.
// Unmarshal takes at most twice the text's length, and 128 KiB, in all, also what is garbage when it returns. It goes over the text
// once before, finds out what each value will take in the type that it is read into, and makes lists and maps of their final
// size. A text that needs more than that is refused before it has been given any.
//
// Beyond what encoding/json does it refuses a field that is there twice, names of fields that have escapes in them or more than 32
// bytes, and more than 64 levels of brackets: none of our documents has such. It reads structs, slices, arrays, maps of strings,
// strings, integers, bools, and types that unmarshal themselves, which must take no more than the length of their text.
package frugal

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// workspace is what Unmarshal may take beside twice the length of a text: decoders, the types' fields, and values that are
// larger here than as text, of which there are few.
const workspace = 128 << 10

// maxDepth bounds the levels of brackets, each of which costs the scanner of encoding/json some.
const maxDepth = 64

// maxName bounds the bytes of a field's name: to compare longer ones encoding/json takes a buffer that grows.
const maxName = 32

// errCrowded says that there are too many values in a text for its length.
var errCrowded = errors.New("takes more than twice its length of memory")

// Unmarshal is json.Unmarshal, for a v that points to a zero value, within bounds. Errors say nothing of the text but
// names and places.
func Unmarshal(text []byte, v any) error { return UnmarshalIn(0, text, v) }

// UnmarshalIn is Unmarshal that may take space bytes more.
func UnmarshalIn(space int, text []byte, v any) error {
	if depth(text) > maxDepth {
		return fmt.Errorf("JSON: more than %d levels of brackets", maxDepth)
	}
	if json.Valid(text) {
		r := room{text: text, left: 2*len(text) + workspace - workspace/4 + space, known: map[reflect.Type][]field{}}
		if err := r.value(reflect.ValueOf(v).Elem()); err != nil {
			return fmt.Errorf("JSON: at byte %d: %w", r.at, err)
		}
	}
	return json.Unmarshal(text, v) // which says what is not valid
}

// depth returns the levels of brackets in a text, which need not be JSON.
func depth(text []byte) int {
	r := room{text: text}
	depth, deepest := 0, 0
	for r.at < len(text) {
		switch text[r.at] {
		case '"':
			r.string()
			continue
		case '[', '{':
			depth++
			deepest = max(deepest, depth)
		case ']', '}':
			depth--
		}
		r.at++
	}
	return deepest
}

// room goes over a text, which is valid JSON but for depth, and counts what is left of the memory that its values may take.
type room struct {
	text  []byte
	at    int
	left  int
	known map[reflect.Type][]field
}

// field is a field of a struct, under its name in JSON.
type field struct {
	name  string
	index []int
}

// take takes n bytes.
func (r *room) take(n int) error {
	if r.left -= allocated(n); r.left < 0 {
		return errCrowded
	}
	return nil
}

// allocated is at least what Go's allocator gives for n bytes (runtime/sizeclasses.go): below 1 KiB there is a size every 8 to
// 128 bytes, below 32 KiB one at most 19 % larger, and then every 8 KiB.
func allocated(n int) int {
	round := func(to int) int { return (n + to - 1) / to * to }
	switch {
	case n <= 32:
		return round(8)
	case n <= 256:
		return round(16)
	case n <= 512:
		return round(32)
	case n <= 1<<10:
		return round(128)
	case n <= 32<<10:
		return n + n/5
	}
	return n + 8<<10
}

// value goes over the next value, which is to be read into v, and makes room there. What is read into nothing takes nothing.
func (r *room) value(v reflect.Value) error {
	r.space()
	switch {
	case !v.IsValid():
		r.skip()
		return nil
	case r.text[r.at] == 'n':
		r.skip()
		return r.take(0)
	}
	for ; v.Kind() == reflect.Pointer; v = v.Elem() {
		if err := r.take(int(v.Type().Elem().Size())); err != nil {
			return err
		}
		v.Set(reflect.New(v.Type().Elem()))
	}
	t := reflect.PointerTo(v.Type())
	switch {
	case t.Implements(reflect.TypeFor[json.Unmarshaler]()):
		return r.take(len(r.skip()))
	case t.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) && r.text[r.at] == '"':
		return r.chars()
	case t.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return fmt.Errorf("not a %v", v.Type())
	}
	return r.plain(v)
}

// plain goes over a value of a type that encoding/json knows by itself.
func (r *room) plain(v reflect.Value) error {
	kind, c := v.Kind(), r.text[r.at]
	switch {
	case c == '{' && kind == reflect.Struct:
		return r.object(v)
	case c == '{' && kind == reflect.Map:
		return r.entries(v)
	case c == '[' && (kind == reflect.Slice || kind == reflect.Array):
		return r.list(v)
	case c == '"' && (kind == reflect.String || kind == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8):
		return r.chars()
	case (c == 't' || c == 'f') && kind == reflect.Bool:
		r.skip()
		return nil
	case isNumber(r.text[r.at:], v.Type()):
		r.skip()
		return nil
	}
	return fmt.Errorf("not a %v", v.Type())
}

// isNumber tells whether text begins with a number that is one of the type.
func isNumber(text []byte, t reflect.Type) bool {
	digits := (&room{text: text[:min(len(text), 32)]}).skip()
	switch t.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		_, err := strconv.ParseInt(string(digits), 10, t.Bits())
		return err == nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		_, err := strconv.ParseUint(string(digits), 10, t.Bits())
		return err == nil
	}
	return false
}

// chars goes over a string that is read into memory of its own: with escapes in it, twice.
func (r *room) chars() error {
	s := r.string()
	if err := r.take(len(s)); err != nil {
		return err
	}
	switch {
	case !utf8.Valid(s): // each wrong byte becomes three, in a buffer that grows
		return r.take(16 * len(s))
	case bytes.IndexByte(s, '\\') >= 0:
		return r.take(len(s) + 2*utf8.UTFMax)
	}
	return nil
}

// list goes over an array, and gives a slice the capacity for it: encoding/json fills that.
func (r *room) list(v reflect.Value) error {
	if v.Kind() == reflect.Slice {
		n := r.count()
		if err := r.take(n * int(v.Type().Elem().Size())); err != nil {
			return err
		}
		v.Grow(n)
		v.SetLen(n)
		defer v.SetLen(0)
	}
	for i := 0; r.more(); i++ {
		var element reflect.Value // beyond the end of an array: nothing
		if i < v.Len() {
			element = v.Index(i)
		}
		if err := r.value(element); err != nil {
			return err
		}
	}
	return nil
}

// entries goes over an object that is read into a map of strings.
func (r *room) entries(v reflect.Value) error {
	if v.Type().Key().Kind() != reflect.String || v.Type().Elem().Kind() != reflect.String {
		return fmt.Errorf("no room for a %v", v.Type())
	}
	n := r.count()
	hint, size := mapRoom(n)
	if err := r.take(size); err != nil {
		return err
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), hint))
	for r.more() {
		r.space()
		if err := errors.Join(r.take(int(v.Type().Key().Size())), r.chars()); err != nil { // a value of reflect's for each key
			return err
		}
		r.colon()
		if r.text[r.at] != '"' {
			return errors.New("not a string")
		}
		if err := r.chars(); err != nil {
			return err
		}
	}
	return nil
}

// mapRoom returns the size that a map for n strings is to be made with, and what it then takes: slots of two strings and a byte, of
// which eight are a group, and seven in use. A large one has tables of 1024 slots, among which entries are spread by chance: with
// a quarter more none of them gets full, and has to be split.
func mapRoom(n int) (hint, size int) {
	const slot, head = 2*16 + 1, 64
	if n <= 8 {
		return n, head + 8*slot
	}
	if n > 896 {
		n += n / 4
	}
	size = slot << bits.Len(uint(n*8/7))
	return n, size + head + size/256
}

// object goes over an object that is read into a struct.
func (r *room) object(v reflect.Value) error {
	fields := r.fields(v.Type())
	var seen uint64 // of the first 64 fields
	for r.more() {
		r.space()
		name := r.string()
		r.colon()
		i := find(fields, name)
		switch {
		case len(name) > maxName || bytes.IndexByte(name, '\\') >= 0 || !utf8.Valid(name):
			return errors.New("the name of no field")
		case i < 0:
			r.skip()
			continue
		case seen&(1<<i) != 0:
			return fmt.Errorf("a second %q", fields[i].name)
		}
		seen |= 1 << i
		if err := r.value(v.FieldByIndex(fields[i].index)); err != nil {
			return err
		}
	}
	return nil
}

// find returns the place of the field that encoding/json reads a value of that name into, or -1.
func find(fields []field, name []byte) int {
	if i := slices.IndexFunc(fields, func(f field) bool { return f.name == string(name) }); i >= 0 {
		return i
	}
	return slices.IndexFunc(fields, func(f field) bool { return bytes.EqualFold([]byte(f.name), name) })
}

// fields returns the fields of a struct, those of the structs embedded in it included.
func (r *room) fields(t reflect.Type) []field {
	if all, ok := r.known[t]; ok {
		return all
	}
	var all []field
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		embedded := f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct
		if f.IsExported() && !embedded && f.Tag.Get("json") != "-" {
			all = append(all, field{cmp.Or(name, f.Name), f.Index})
		}
	}
	r.known[t] = all
	return all
}

// count returns how many values the array or object has that begins here.
func (r *room) count() int {
	scan := room{text: r.text, at: r.at}
	n := 0
	for scan.more() {
		scan.space()
		scan.skip()
		if scan.space(); scan.text[scan.at] == ':' {
			scan.colon()
			scan.skip()
		}
		n++
	}
	return n
}

// more goes on to the next value of an array, or the next name of an object, from its bracket or from behind the value before,
// and behind its end after the last one.
func (r *room) more() bool {
	r.space()
	begins := r.text[r.at] == '[' || r.text[r.at] == '{'
	ends := r.text[r.at] == ']' || r.text[r.at] == '}'
	r.at++
	if !begins {
		return !ends
	}
	if r.space(); r.text[r.at] == ']' || r.text[r.at] == '}' {
		r.at++
		return false
	}
	return true
}

// space goes over white space.
func (r *room) space() {
	for r.at < len(r.text) && (r.text[r.at] == ' ' || r.text[r.at] == '\t' || r.text[r.at] == '\n' || r.text[r.at] == '\r') {
		r.at++
	}
}

// colon goes over the colon behind a name, and the space around it.
func (r *room) colon() {
	r.space()
	r.at++
	r.space()
}

// skip goes over a value, and returns it.
func (r *room) skip() []byte {
	start, depth := r.at, 0
	for r.at < len(r.text) {
		switch r.text[r.at] {
		case '"':
			r.string()
			if depth == 0 {
				return r.text[start:r.at]
			}
			continue
		case '[', '{':
			depth++
		case ']', '}':
			if depth--; depth == 0 {
				r.at++
				return r.text[start:r.at]
			}
			fallthrough
		case ',', ' ', '\t', '\n', '\r':
			if depth <= 0 {
				return r.text[start:r.at]
			}
		}
		r.at++
	}
	return r.text[start:]
}

// string goes over a string, and returns what is between its quotes.
func (r *room) string() []byte {
	r.at++
	start := r.at
	for r.at < len(r.text) && r.text[r.at] != '"' {
		if r.text[r.at] == '\\' {
			r.at++
		}
		r.at++
	}
	r.at = min(r.at+1, len(r.text))
	return r.text[start:max(start, min(r.at-1, len(r.text)))]
}
