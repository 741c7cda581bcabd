package frugal_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/internal/frugal"
)

// document has a field of every kind that stored documents have.
type document struct {
	Version int               `json:"version"`
	Name    string            `json:"name,omitempty"`
	Yes     bool              `json:"yes"`
	Parts   []part            `json:"parts,omitempty"`
	Words   []string          `json:"words,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Raw     json.RawMessage   `json:"raw,omitempty"`
	Bytes   []byte            `json:"bytes,omitempty"`
	At      *time.Time        `json:"at,omitempty"`
	Pair    [2]uint8          `json:"pair"`
	head
	Left int `json:"-"`
}

type head struct{ Kind string }

type part struct {
	A, B, C, D string
	Size       int64  `json:"size"`
	Parts      []part `json:"parts,omitempty"`
	Last       *part  `json:"last,omitempty"`
}

const good = `{"version":1,"name":"a\nb \u00e9","yes":true,"parts":[{"A":"x","size":-5,"parts":[{"B":"y"},{}]},{"parts":[],"last":{"C":"z"}}],
 "words" : [ "one", null, "t\"wo" ] ,"labels":{"k":"v","l\\":"[{"},"raw":{"any":["thing",1.5e9,{}]},"bytes":"AAEC","at":"2026-11-20T02:00:00Z","pair":[1,2,3],"kind":"k","unknown":[{"version":2}],"x":null}`

// Texts that ask for much, with little. The number is about how many bytes each is to have.
var greedy = map[string]func(n int) string{
	"structs":       func(n int) string { return `{"parts":[{}` + strings.Repeat(`,{}`, n/3) + `]}` },
	"nested lists":  func(n int) string { return `{"parts":[{"parts":[{}]}` + strings.Repeat(`,{"parts":[{}]}`, n/15) + `]}` },
	"nulls":         func(n int) string { return `{"parts":[null` + strings.Repeat(`,null`, n/5) + `]}` },
	"pointers":      func(n int) string { return `{"parts":[{"last":{}}` + strings.Repeat(`,{"last":{}}`, n/12) + `]}` },
	"words":         func(n int) string { return `{"words":[""` + strings.Repeat(`,""`, n/3) + `]}` },
	"escapes":       func(n int) string { return `{"words":["\n\n"` + strings.Repeat(`,"\n\n"`, n/7) + `]}` },
	"labels":        func(n int) string { return `{"labels":{"":""` + strings.Repeat(`,"":""`, n/6) + `}}` },
	"long names":    func(n int) string { return `{"` + strings.Repeat("K", n) + `":0}` },
	"wrong bytes":   func(n int) string { return `{"name":"` + strings.Repeat("\xff", n) + `"}` },
	"names":         func(n int) string { return `{"name":"a"` + strings.Repeat(`,"name":"aaaaaaaaaaaaaaaa"`, n/26) + `}` },
	"brackets":      func(n int) string { return strings.Repeat(`[`, n/2) + strings.Repeat(`]`, n/2) },
	"raw brackets":  func(n int) string { return `{"raw":` + strings.Repeat(`[`, n/2) + strings.Repeat(`]`, n/2) + `}` },
	"no end":        func(n int) string { return strings.Repeat(`{"parts":[`, n/10) },
	"wrong kinds":   func(n int) string { return `{"words":[1` + strings.Repeat(`,1`, n/2) + `]}` },
	"wrong numbers": func(n int) string { return `{"parts":[{"size":1.5}` + strings.Repeat(`,{"size":1.5}`, n/13) + `]}` },
	"digits":        func(n int) string { return `{"version":` + strings.Repeat("1", n) + `}` },
	"long array":    func(n int) string { return `{"pair":[1` + strings.Repeat(`,1`, n/2) + `]}` },
}

// Whatever is accepted is what encoding/json reads, and nothing takes more than twice its length and 128 KiB: the text as it is, and
// as each element of a long list.
func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(good))
	for _, text := range []string{`{"NAME":"upper","\u006eame":"escaped"}`, `{}`, `{"last":{}}`, `{"A":"\n\n"}`, `{"parts":[{}]}`, `null`, `{"size":-1}`} {
		f.Add([]byte(text))
	}
	for _, text := range greedy {
		f.Add([]byte(text(100)))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var got, want document
		err := bounded(t, text, func() error { got = document{}; return frugal.Unmarshal(text, &got) })
		if err == nil {
			err = json.Unmarshal(text, &want)
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(document{})); diff != "" || err != nil {
				t.Errorf("not what encoding/json reads (-want +got): %v\n%s", err, diff)
			}
		}
		if testing.Short() { // there is nothing in it for the race detector, which takes memory of its own
			return
		}
		n := 50_000 / (len(text) + 1)
		list := slices.Concat([]byte(`{"parts":[{}`), bytes.Repeat(append([]byte(","), text...), n), []byte(`]}`))
		_ = bounded(t, list, func() error { return frugal.Unmarshal(list, new(document)) })
	})
}

// bounded fails if unmarshal allocates more than it promises. What others allocate meanwhile is not there each time.
func bounded(t *testing.T, text []byte, unmarshal func() error) error {
	t.Helper()
	var err error
	var least uint64 = math.MaxUint64
	limit := uint64(2*len(text) + 128<<10)
	for attempt := 0; attempt < 5 && least > limit; attempt++ {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err = unmarshal()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	if least > limit {
		t.Errorf("%d bytes allocated for the %d of %.150q, want at most %d", least, len(text), text, limit)
	}
	return err
}

// What asks for much with little is refused before it is given anything; much text may have much.
func TestGreedy(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine, which the race detector makes slow")
	}
	for what, make := range greedy {
		t.Run(what, func(t *testing.T) {
			text := []byte(make(200_000))
			err := bounded(t, text, func() error { return frugal.Unmarshal(text, new(document)) })
			if refused := err != nil; refused == (what == "long array") {
				t.Error(err)
			}
		})
	}
}

// Documents as they are stored are read, however long they are.
func TestLarge(t *testing.T) {
	var want document
	for range 300 {
		word := strings.Repeat("word ", 20)
		want.Words = append(want.Words, word)
		want.Parts = append(want.Parts, part{A: word, B: word, C: word, D: word, Size: 7, Parts: []part{{A: word + word}}})
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got document
	if err := bounded(t, text, func() error { got = document{}; return frugal.Unmarshal(text, &got) }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(document{})); diff != "" {
		t.Error(diff)
	}
}

// So are many labels.
func TestLabels(t *testing.T) {
	for _, n := range []int{1, 8, 9, 800, 900, 1700, 7168, 14336} {
		if n > 900 && testing.Short() {
			continue
		}
		want := document{Labels: map[string]string{}}
		for i := range n {
			want.Labels[fmt.Sprintf("com.example.label.%d", i)] = "a value that says something, " + strings.Repeat("and more, ", 10)
		}
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got document
		err = bounded(t, text, func() error { got = document{}; return frugal.Unmarshal(text, &got) })
		if err != nil || !maps.Equal(got.Labels, want.Labels) {
			t.Errorf("%d labels: %d, %v", n, len(got.Labels), err)
		}
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	text := []byte(`{"parts":[` + strings.Repeat(`{"A":"a value that has a more usual length than that","B":"a value that has a more usual length than that","C":"a value that has a more usual length than that","size":123456},`, 10_000) + `{}]}`)
	for name, unmarshal := range map[string]func([]byte, any) error{"frugal": frugal.Unmarshal, "json": json.Unmarshal} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if err := unmarshal(text, new(document)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
