package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

func TestSizeTicks(t *testing.T) {
	for _, top := range []int64{0, 1, 7, 8, 9, 1000, 1 << 20, 1<<40 + 1, 1 << 60} {
		ticks := sizeTicks(top)
		if len(ticks) < 2 || len(ticks) > maxTicks+2 || ticks[0].Value != 0 || ticks[len(ticks)-1].Value < float64(top) {
			t.Errorf("up to %d: %v", top, ticks)
		}
	}
	if got := sizeTicks(5 << 30)[1].Label; got != "1.0 GiB" {
		t.Errorf("steps of 5 GiB are %s", got)
	}
}

func TestTimeTicks(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		zone = time.UTC
	}
	from := time.Date(2026, 10, 20, 2, 30, 0, 0, zone) // the clock goes back on the 25th
	for _, span := range []time.Duration{0, time.Minute, time.Hour, 10 * time.Hour, 47 * time.Hour, 240 * time.Hour, 9000 * time.Hour, 200_000 * time.Hour} {
		ticks := timeTicks(from, from.Add(span))
		first, last := ticks[0].Value, ticks[len(ticks)-1].Value
		if len(ticks) < 2 || len(ticks) > maxTicks+1 || first > float64(from.UnixNano()) || last < float64(from.Add(span).UnixNano()) {
			t.Errorf("over %v: %v", span, ticks)
		}
	}
	if got := timeTicks(from, from.Add(240*time.Hour))[1].Label; got != "2026-10-22" {
		t.Errorf("the second mark of ten days is %s", got)
	}
}

func TestDrawGrowth(t *testing.T) {
	var list []snapshot.Summary
	for i, system := range []string{"shop", "shop", "<wiki> & more", "shop"} {
		list = append(list, snapshot.Summary{System: system, Time: time.Date(2026, 11, 1+i, 2, 0, 0, 0, time.UTC), Stats: snapshot.Stats{Stored: 1 << (20 + i)}})
	}
	for n := 1; n <= len(list); n++ {
		var b, again bytes.Buffer
		if err := errors.Join(drawGrowth(&b, snapshot.Grow(list[:n]), time.UTC), drawGrowth(&again, snapshot.Grow(list[:n]), time.UTC)); err != nil {
			t.Fatalf("of %d: %v", n, err)
		}
		if !bytes.Equal(b.Bytes(), again.Bytes()) {
			t.Errorf("of %d: not the same twice", n)
		}
		d := xml.NewDecoder(bytes.NewReader(b.Bytes()))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("of %d: no XML: %v", n, err)
			}
		}
		for _, want := range []string{">shop<", ">11-01 00:00<", "MiB<"} {
			if n == len(list) && !strings.Contains(b.String(), want) {
				t.Errorf("no %q in the chart", want)
			}
		}
		if strings.Contains(b.String(), "href=\"http") || strings.Contains(b.String(), "@import") {
			t.Error("the chart needs something else to be shown")
		}
	}
}
