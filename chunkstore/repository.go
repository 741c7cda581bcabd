package chunkstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hakobune-dr/hakobune/crypto"
)

// Options tune a Repository. The zero value is ready for use.
type Options struct {
	// CacheDir keeps copies of small and metadata objects, as they are stored (encrypted), and of a
	// large index its base: ids, sizes and packs of chunks in clear, no content. Several processes
	// may share it; it may be deleted at any time. Empty: no cache; a large index then takes space
	// in os.TempDir.
	CacheDir string
	// StateDir remembers this host's writer id between runs. Empty: a new id for each run.
	StateDir string
	// Logger gets warnings and, at debug level, the course of things. Nil: discarded.
	Logger *slog.Logger
}

// Repository is an open repository. It is safe for concurrent use and needs no closing.
type Repository struct {
	backend Backend
	locker  Locker // of the backend; nil: objects are not locked
	keys    *crypto.Keys
	config  Config
	cuts    func() (cuts, error) // derived when first needed, which takes a while: reading needs none
	coder   *coder
	ages    ages
	cache   *cache
	opts    Options
	log     *slog.Logger

	loadMu   sync.Mutex // one load of the index at a time
	loaded   bool
	reloaded time.Time // because a pack was gone, see reload
	changed  bool      // by that
	obscured error     // ErrMarks, if it is not known what collections delete
	lost     []PackRef // that were not stored when a snapshot was to rely on them, see ErrPackGone
	index    *index
	limits   indexLimits

	windows  places // of all Reads, beyond the one that each has
	fetching places // ranges that are being fetched
	recent   *recent

	contestTime time.Duration // see Claim

	ended   ended                  // the sessions that ended last, where lists lag
	passed  sync.Map               // names of marks of which it was told that they are passed over
	creates atomic.Pointer[string] // "yes" or "no", see conditional

	metaMu sync.Mutex // of the fields below
	meta   []openMeta // the metadata packs used last, newest first

	host    *crypto.HostInfo // of a put-only host; nil: all keys are there
	hostIDs sync.Map         // crypto.IDs by Domain
	headMu  sync.Mutex       // of the field below
	heads   map[PackID][]byte
	putOnly atomic.Pointer[map[crypto.WriterID]bool] // the put-only hosts that there are
}

// InitOptions say what stands in the config of a repository, for ever. The zero value is ready for use.
type InitOptions struct {
	Chunker ChunkerParams
	// Lock makes a repository whose objects are locked. ErrUnsupported is wrapped where the backend cannot do that.
	Lock *Lock
	// DataClass is the class of storage that packs of data are put into by whoever opens the repository at a store that has classes.
	DataClass string
}

// Init creates a repository on an empty backend location and seals its first key slot for secret.
// It returns ErrRepositoryExists, and changes nothing, where there is one.
func Init(ctx context.Context, b Backend, secret crypto.Secret, slot crypto.SlotInfo, cost crypto.KDF, params ChunkerParams) (Config, error) {
	return initialize(ctx, b, secret, slot, cost, InitOptions{Chunker: params})
}

// InitWith is Init with options.
func InitWith(ctx context.Context, b Backend, secret crypto.Secret, slot crypto.SlotInfo, cost crypto.KDF, o InitOptions) (Config, error) {
	if err := checkClass(o.DataClass); err != nil {
		return Config{}, err
	}
	if o.Lock != nil {
		if err := o.Lock.validate(); err != nil {
			return Config{}, err
		}
		locked, err := lockerOf(b).Lock(*o.Lock)
		if err != nil {
			return Config{}, fmt.Errorf("%s: object lock: %w", b.Location(), err)
		}
		b = locked
	}
	return initialize(ctx, b, secret, slot, cost, o)
}

func initialize(ctx context.Context, b Backend, secret crypto.Secret, slot crypto.SlotInfo, cost crypto.KDF, o InitOptions) (Config, error) {
	params := o.Chunker
	if params == (ChunkerParams{}) {
		params = defaultChunker
	}
	if err := params.validate(); err != nil {
		return Config{}, err
	}
	if _, err := b.Stat(ctx, configName); err == nil {
		return Config{}, fmt.Errorf("%s: %w", b.Location(), ErrRepositoryExists)
	} else if !errors.Is(err, ErrNotExist) {
		return Config{}, err
	}
	cfg := Config{Magic: configMagic, Version: FormatVersion, Repository: crypto.NewRepositoryID(), Chunker: params, Lock: o.Lock, DataClass: o.DataClass}
	clear, err := json.Marshal(cfg)
	if err != nil {
		return Config{}, err
	}
	sealed, id, err := crypto.SealSlot(secret, slot, crypto.Payload{
		Repository: cfg.Repository, Config: clear, Masters: []crypto.Master{crypto.NewMaster(1)},
	}, cost)
	if err != nil {
		return Config{}, err
	}
	if err := b.Put(ctx, slotPrefix+id, sealed); err != nil {
		return Config{}, fmt.Errorf("store the key slot: %w", err)
	}
	// The config goes last: without it there is no repository.
	if err := putNew(ctx, b, configName, clear); err != nil {
		return Config{}, fmt.Errorf("store the config: %w", err)
	}
	return cfg, nil
}

// putNew stores an object that must not exist, as strictly as the backend can.
func putNew(ctx context.Context, b Backend, name string, data []byte) error {
	if c, ok := b.(Creator); ok {
		err := c.PutIfAbsent(ctx, name, data)
		if errors.Is(err, ErrExist) {
			return ErrRepositoryExists
		}
		if !errors.Is(err, ErrUnsupported) {
			return err
		}
	}
	return b.Put(ctx, name, data)
}

// Open opens the repository at b with the newest of its key slots that secret fits. Errors:
// ErrNoRepository, crypto.ErrWrongKey, crypto.ErrNewer, crypto.ErrDamaged.
//
// A repository whose objects are locked is read as it was stored, whatever was put over its objects or deleted
// since (Locker).
func Open(ctx context.Context, b Backend, secret crypto.Secret, opts Options) (*Repository, error) {
	r, err := openAt(ctx, b, secret, opts)
	if err != nil {
		r, err = openFirst(ctx, b, secret, opts, err)
	}
	if err == nil {
		err = r.useLock(ctx, b, secret)
	}
	if err != nil {
		return nil, err
	}
	if r.config.DataClass != "" {
		r.backend = inClass(r.backend, r.config.DataClass)
	}
	return r, nil
}

func openAt(ctx context.Context, b Backend, secret crypto.Secret, opts Options) (*Repository, error) {
	cfg, clear, err := readConfig(ctx, b)
	if err != nil {
		return nil, err
	}
	payload, err := unlock(ctx, b, secret)
	if err != nil {
		return nil, err
	}
	if err := sameConfig(payload, cfg, clear); err != nil {
		return nil, err
	}
	return open(b, cfg, payload, opts)
}

// readConfig reads the clear config, also as it is stored.
func readConfig(ctx context.Context, b Backend) (Config, []byte, error) {
	clear, err := b.Get(ctx, configName, 0, -1)
	if errors.Is(err, ErrNotExist) || errors.Is(err, ErrNoStore) {
		err = fmt.Errorf("%s: %w", b.Location(), ErrNoRepository)
	}
	if err != nil {
		return Config{}, nil, err
	}
	cfg, err := parseConfig(clear)
	return cfg, clear, err
}

// sameConfig compares the clear config with the copy in a key slot.
func sameConfig(payload crypto.Payload, cfg Config, clear []byte) error {
	if string(payload.Config) != string(clear) || payload.Repository != cfg.Repository {
		return fmt.Errorf("%w: object %q differs from the copy in the key slot: somebody altered it", crypto.ErrDamaged, configName)
	}
	return nil
}

func open(b Backend, cfg Config, payload crypto.Payload, opts Options) (*Repository, error) {
	keys, err := crypto.NewKeys(payload.Repository, payload.Masters...)
	if err != nil {
		return nil, err
	}
	return openKeys(b, cfg, keys, opts)
}

func openKeys(b Backend, cfg Config, keys *crypto.Keys, opts Options) (*Repository, error) {
	coder, err := newCoder()
	if err != nil {
		return nil, err
	}
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Repository{
		backend: b, keys: keys, config: cfg, cuts: sync.OnceValues(func() (cuts, error) { return newCuts(keys) }), coder: coder, ages: defaultAges(), opts: opts, log: log,
		cache: newCache(opts.CacheDir, cfg.Repository.String()), index: newIndex(), limits: defaultIndexLimits(),
		windows: make(places, sharedWindows), fetching: make(places, rangeReaders), recent: newRecent(), contestTime: contestTime,
	}, nil
}

// Config returns the repository's configuration.
func (r *Repository) Config() Config { return r.config }

// Backend returns the backend that the repository lies on.
func (r *Repository) Backend() Backend { return r.backend }

// cachedGet returns a whole object, from the cache if it has it.
func (r *Repository) cachedGet(ctx context.Context, name string) ([]byte, error) {
	if b, ok := r.cache.get(name); ok {
		return b, nil
	}
	b, err := r.backend.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	r.cache.put(name, b)
	return b, nil
}

// listNames returns the names under prefix, in order.
func listNames(ctx context.Context, b Backend, prefix string) ([]string, error) {
	var names []string
	err := b.List(ctx, prefix, func(i Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", strings.TrimSuffix(prefix, "/"), err)
	}
	return names, nil
}

// Usage says what a repository takes.
type Usage struct {
	Packs       int
	StoredBytes int64 // of all indexed packs, as stored
	Chunks      int
	PlainBytes  int64 // of all chunks, decoded
}

// Usage adds up what the index knows.
func (r *Repository) Usage(ctx context.Context) (Usage, error) {
	if err := r.LoadIndex(ctx); err != nil {
		return Usage{}, err
	}
	var u Usage
	err := r.index.packs(func(p packUse) {
		u.Packs++
		u.StoredBytes += p.storedSize()
		u.Chunks += p.chunks
		u.PlainBytes += p.plain
	})
	return u, err
}
