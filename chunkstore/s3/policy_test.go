package s3_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/s3"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/internal/testserver"
)

// addHost adds a put-only host and returns its credential.
func addHost(t *testing.T, r *chunkstore.Repository, name string) *crypto.Credential {
	t.Helper()
	_, text, err := r.AddHost(t.Context(), name, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	credential, err := crypto.ParseCredential(text)
	if err != nil {
		t.Fatal(err)
	}
	return credential
}

// under returns c with keys of a MinIO user who may do what the policy of the host allows.
func under(t *testing.T, server *testserver.Server, c s3.Config, host *crypto.Credential, lock *chunkstore.Lock) s3.Config {
	t.Helper()
	policy, err := c.HostPolicy(host.Info().Writer.String(), lock, false)
	if err != nil {
		t.Fatal(err)
	}
	var p struct{ Version, Statement any }
	if err := json.Unmarshal(policy, &p); err != nil {
		t.Fatal(err)
	}
	for _, s := range p.Statement.([]any) {
		delete(s.(map[string]any), "Sid") // which means nothing: there is a limit to the length of such a user's policy
	}
	short, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	user, err := credentials.NewSTSAssumeRole("http://"+server.Endpoint, credentials.STSAssumeRoleOptions{
		AccessKey: server.AccessKey, SecretKey: server.SecretKey, Policy: string(short), DurationSeconds: 3600,
	})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := user.GetWithContext(nil)
	if err != nil {
		t.Fatal(err)
	}
	c.AccessKey, c.SecretKey, c.SessionToken = keys.AccessKeyID, keys.SecretAccessKey, keys.SessionToken
	return c
}

// hostBackup stores a snapshot with the keys and the credential of a put-only host, and returns what that cost.
func hostBackup(t *testing.T, c s3.Config, host *crypto.Credential, content []byte) chunkstore.SessionStats {
	t.Helper()
	r, err := chunkstore.OpenHost(t.Context(), decorated(open(t, c)), host, chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Begin(t.Context(), chunkstore.BeginOptions{Host: "db1"})
	if err != nil {
		t.Fatal(err)
	}
	body, err := s.SaveStream(t.Context(), content)
	if err == nil {
		err = s.Commit(t.Context(), "db1", func(chunkstore.SessionStats) any { return nil }, body)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s.Stats()
}

// wantBodies fails unless the snapshots hold that.
func wantBodies(t *testing.T, r *chunkstore.Repository, contents ...string) {
	t.Helper()
	all, err := r.Outcomes(t.Context())
	if err != nil || len(all) != len(contents) {
		t.Fatalf("%d snapshots, want %d: %v", len(all), len(contents), err)
	}
	for i, o := range all {
		if got, err := r.ReadStream(t.Context(), o.Body); o.Err != nil || err != nil || string(got) != contents[i] {
			t.Errorf("snapshot %d: %v, %v", i, o.Err, err)
		}
	}
}

// A real MinIO, and a user of it with the very policy that a put-only host is given: backups work, and with these keys nobody
// reads, deletes, or stores in another's name.
func TestHostPolicy(t *testing.T) {
	server := testserver.MinIO(t)
	c := config(server)
	if err := open(t, c).CreateBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	secret := crypto.KeyFile(crypto.NewKeyFile())
	if _, err := chunkstore.Init(t.Context(), open(t, c), secret, crypto.SlotInfo{}, crypto.KDF{}, chunkstore.ChunkerParams{}); err != nil {
		t.Fatal(err)
	}
	full := openRepository(t, c, secret, t.TempDir())
	commit(t, full, []byte("of the others"))
	host, other := addHost(t, full, "db1"), addHost(t, full, "db2")
	restricted := under(t, server, c, host, nil)
	content := strings.Repeat("hakobune ", 30_000)
	first := hostBackup(t, restricted, host, []byte(content))
	if second := hostBackup(t, restricted, host, []byte(content)); first.NewBytes < 100_000 || second.NewBytes > 1000 {
		t.Errorf("first %+v, then %+v", first, second)
	}
	wantBodies(t, openRepository(t, c, secret, t.TempDir()), "of the others", content, content)
	thief, root := open(t, restricted), open(t, c)
	ctx, own := t.Context(), host.Info().Writer.String()
	kinds := map[string]int{}
	if err := root.List(ctx, "", func(i chunkstore.Info) error {
		parts := strings.Split(i.Name, "/")
		mine := len(parts) > 2 && parts[1] == own
		readable := i.Name == "config" || parts[0] == "g" || parts[0] == "o" || mine && strings.Contains("i n x", parts[0])
		if _, err := thief.Get(ctx, i.Name, 0, -1); readable != (err == nil) || !readable && !errors.Is(err, chunkstore.ErrAccess) {
			t.Errorf("get %s: %v", i.Name, err)
		}
		if err := thief.Delete(ctx, i.Name); !errors.Is(err, chunkstore.ErrAccess) {
			t.Errorf("delete %s: %v", i.Name, err)
		}
		if mine {
			kinds[parts[0]]++
			theirs := strings.Replace(i.Name, own, other.Info().Writer.String(), 1)
			if err := thief.Put(ctx, theirs, []byte("x")); !errors.Is(err, chunkstore.ErrAccess) {
				t.Errorf("put %s: %v", theirs, err)
			}
		} else if err := thief.Put(ctx, i.Name, []byte("x")); !errors.Is(err, chunkstore.ErrAccess) {
			t.Errorf("put %s: %v", i.Name, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(kinds) != 4 && len(kinds) != 5 {
		t.Errorf("kinds of the host's objects: %v", kinds)
	}
	for _, name := range []string{"g/" + own + "/x", "f/" + own + "/x", "x/" + own + "/x", "o/x", "h/" + own + "-removed", "probe/x"} {
		if err := thief.Put(ctx, name, []byte("x")); !errors.Is(err, chunkstore.ErrAccess) {
			t.Errorf("put %s: %v", name, err)
		}
	}
	for _, prefix := range []string{"", "n/", "f/", "p/" + other.Info().Writer.String() + "/"} {
		if err := thief.List(ctx, prefix, func(chunkstore.Info) error { return nil }); !errors.Is(err, chunkstore.ErrAccess) {
			t.Errorf("list %q: %v", prefix, err)
		}
	}
	wantBodies(t, openRepository(t, c, secret, t.TempDir()), "of the others", content, content)
}

// In a bucket with Object Lock, such a user can put something over what the host has stored, and hides nothing by that.
func TestHostPolicyOfALockedRepository(t *testing.T) {
	c, server, lock, secret := locked(t, chunkstore.Compliance)
	full := openRepository(t, c, secret, t.TempDir())
	host := addHost(t, full, "db1")
	restricted := under(t, server, c, host, &lock)
	content := strings.Repeat("hakobune ", 3000)
	hostBackup(t, restricted, host, []byte(content))
	hostBackup(t, restricted, host, []byte(content))
	thief, own := open(t, restricted), "/"+host.Info().Writer.String()+"/"
	var names []string
	if err := open(t, c).List(t.Context(), "", func(i chunkstore.Info) error {
		names = append(names, i.Name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !strings.Contains(name, own) {
			continue
		}
		if err := thief.Put(t.Context(), name, []byte("x")); err != nil {
			t.Errorf("put %s: %v", name, err) // or this test shows nothing
		}
		if err := thief.Delete(t.Context(), name); !errors.Is(err, chunkstore.ErrAccess) {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	wantBodies(t, openRepository(t, c, secret, t.TempDir()), content, content)
	if again := hostBackup(t, restricted, host, []byte(content)); again.NewBytes > 1000 {
		t.Errorf("the next one: %+v", again)
	}
	if faults := check(t, openRepository(t, c, secret, "")); len(faults) > 0 {
		t.Errorf("%q", faults)
	}
}

func TestPolicyForAWS(t *testing.T) {
	c := s3.Config{Endpoint: "s3.eu-central-1.amazonaws.com", Bucket: "bucket", Prefix: "ark"}
	text, err := c.HostPolicy("0123456789abcdef", &chunkstore.Lock{Mode: chunkstore.Compliance, Days: 30}, true)
	if err != nil {
		t.Fatal(err)
	}
	var policy struct {
		Statement []struct {
			Effect           string
			Action, Resource []string
			Condition        map[string]map[string]any
		}
	}
	if err := json.Unmarshal(text, &policy); err != nil {
		t.Fatal(err)
	}
	replace := false
	for _, s := range policy.Statement {
		for _, action := range s.Action {
			if strings.Contains(action, "Delete") || strings.Contains(action, "*") || strings.Contains(action, "Bypass") {
				t.Errorf("it allows %s", action)
			}
			replace = replace || s.Effect == "Deny" && action == "s3:PutObject" && s.Condition["Null"]["s3:if-none-match"] == "true"
		}
		for _, r := range s.Resource {
			if r != "arn:aws:s3:::bucket" && !strings.HasPrefix(r, "arn:aws:s3:::bucket/ark/") {
				t.Errorf("it goes beyond the repository: %s", r)
			}
		}
	}
	if !replace {
		t.Error("what is there can be replaced")
	}
}
