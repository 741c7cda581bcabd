package importer

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Rate returns how many bytes a second the newest measured restore among records wrote, 0 if none was measured.
// What measures one, of whatever kind, has "bytes" and "rto" (nanoseconds) in its body.
func Rate(records []chunkstore.Record) float64 {
	for _, r := range slices.Backward(records) {
		var m struct {
			Bytes int64         `json:"bytes"`
			RTO   time.Duration `json:"rto"`
		}
		if r.Err == nil && json.Unmarshal(r.Body, &m) == nil && m.Bytes > 0 && m.RTO > 0 {
			return float64(m.Bytes) / m.RTO.Seconds()
		}
	}
	return 0
}
