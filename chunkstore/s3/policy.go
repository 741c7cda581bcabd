package s3

import (
	"encoding/json"
	"fmt"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// HostPolicy returns the policy, in JSON, for the keys to the store that a put-only host of that writer id gets: it allows what such a host
// needs, and no more. lock is that of the repository, or nil. aws says that the store knows what AWS does: the condition
// s3:if-none-match, by which the host is kept from replacing what it has stored, and for how long it may lock that at
// most. MinIO refuses a policy that has the first, and what is to be put under one that has the second.
func (c Config) HostPolicy(writer string, lock *chunkstore.Lock, aws bool) ([]byte, error) {
	objects := func(names ...string) []string {
		arns := make([]string, len(names))
		for i, name := range names {
			arns[i] = "arn:aws:s3:::" + c.Bucket + "/" + c.key(name)
		}
		return arns
	}
	own := func(prefixes ...string) []string {
		names := make([]string, len(prefixes))
		for i, prefix := range prefixes {
			names[i] = prefix + "/" + writer + "/*"
		}
		return names
	}
	bucket := []string{"arn:aws:s3:::" + c.Bucket}
	lists := append([]string{"config", "k/*", "g/*", "o/*", "h/" + writer + "*"}, own("s", "i", "n", "x", "p", "t")...)
	for i, name := range lists {
		lists[i] = c.key(name)
	}
	reads := objects(append([]string{"config", "g/*", "o/*"}, own("i", "n", "x")...)...)
	adds := objects(own("s", "i", "n", "p", "t")...)
	list, read := []string{"s3:ListBucket"}, []string{"s3:GetObject"}
	if lock != nil {
		list, read = append(list, "s3:ListBucketVersions"), append(read, "s3:GetObjectVersion")
	}
	all := []statement{
		{"Find", "Allow", []string{"s3:GetBucketLocation"}, bucket, nil},
		{"List", "Allow", list, bucket, condition{"StringLike": {"s3:prefix": lists}}},
		{"Read", "Allow", read, reads, nil},
		{"Add", "Allow", []string{"s3:PutObject"}, adds, nil},
	}
	if aws {
		all = append(all, statement{"ReplaceNothing", "Deny", []string{"s3:PutObject"}, adds, condition{"Null": {"s3:if-none-match": "true"}}})
	}
	if lock != nil {
		locks := objects(append([]string{"config", "k/*", "g/*", "o/*"}, own("i", "n", "x", "p", "t")...)...)
		var most condition
		if aws { // somebody would have to pay for more
			most = condition{"NumericLessThanEquals": {"s3:object-lock-remaining-retention-days": fmt.Sprint(int(lock.Span().Hours()/24) + 1)}}
		}
		all = append(all,
			statement{"SeeLocks", "Allow", []string{"s3:GetObjectRetention"}, objects("*"), nil},
			statement{"Lock", "Allow", []string{"s3:PutObjectRetention"}, locks, most},
		)
	}
	text, err := json.MarshalIndent(map[string]any{"Version": "2012-10-17", "Statement": all}, "", "  ")
	return append(text, '\n'), err
}

type condition map[string]map[string]any

type statement struct {
	ID        string    `json:"Sid"`
	Effect    string    `json:"Effect"`
	Action    []string  `json:"Action"`
	Resource  []string  `json:"Resource"`
	Condition condition `json:"Condition,omitempty"`
}
