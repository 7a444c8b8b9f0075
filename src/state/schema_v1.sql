-- Schema 1. Ids are text as clients see them (content ids 32 hex digits), times Unix milliseconds, sizes bytes.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL,                 -- admin, operator, viewer
    password_hash TEXT NOT NULL,        -- argon2id, PHC string
    created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE tokens (
    public_id TEXT PRIMARY KEY,         -- first 16 hex digits of secret_hash
    family TEXT NOT NULL,               -- public_id of the first secret of the record; a renewal keeps it
    superseded INTEGER NOT NULL DEFAULT 0, -- 1: renewed; works until expires_ms, but is not listed
    secret_hash BLOB NOT NULL UNIQUE,   -- SHA-256 of the secret
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    description TEXT,
    client TEXT,                        -- JSON object, mostly with "id"
    client_id TEXT,
    scope TEXT,                         -- JSON array; NULL = the whole role
    objects TEXT,                       -- JSON array of ids; NULL = all
    srs TEXT,                           -- JSON array of ids; NULL = all
    renewable INTEGER NOT NULL DEFAULT 0,
    last_used_ms INTEGER,
    last_address TEXT
) STRICT;
CREATE INDEX tokens_of_user ON tokens (user_id, client_id);
CREATE INDEX tokens_of_family ON tokens (family);

CREATE TABLE objects (                  -- pools, hosts: what has no table of its own
    id TEXT PRIMARY KEY,
    type TEXT NOT NULL,
    version INTEGER NOT NULL,           -- of the JSON's shape
    doc TEXT NOT NULL
) STRICT;

CREATE TABLE srs (
    id TEXT PRIMARY KEY,
    name_label TEXT NOT NULL,
    name_description TEXT NOT NULL,
    tags TEXT NOT NULL,                 -- JSON array
    path TEXT NOT NULL UNIQUE,
    content_format TEXT NOT NULL,       -- raw, vhd
    read_only INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE contents (
    id TEXT PRIMARY KEY,
    sr_id TEXT NOT NULL REFERENCES srs (id),
    file TEXT NOT NULL,                 -- relative to the SR's directory
    format TEXT NOT NULL,               -- raw, vhd
    virtual_size INTEGER NOT NULL,
    physical_bytes INTEGER NOT NULL,    -- own file's blocks on disk
    map_version INTEGER NOT NULL,
    map BLOB NOT NULL,                  -- the allocation map, encoded with its own version
    parent_id TEXT REFERENCES contents (id),
    created_ms INTEGER NOT NULL,
    dropped INTEGER NOT NULL DEFAULT 0  -- 1: nothing refers to it any more; goes with its last pin
) STRICT;
CREATE INDEX contents_of_sr ON contents (sr_id);

CREATE TABLE vdis (
    id TEXT PRIMARY KEY,
    sr_id TEXT NOT NULL REFERENCES srs (id),
    content_id TEXT NOT NULL REFERENCES contents (id),
    name_label TEXT NOT NULL,
    name_description TEXT NOT NULL,
    tags TEXT NOT NULL,                 -- JSON array
    vdi_type TEXT NOT NULL,
    virtual_size INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    content_changed_ms INTEGER,         -- when the content was last replaced; NULL = never
    snapshot_of TEXT,
    snapshot_ms INTEGER
) STRICT;
CREATE INDEX vdis_of_sr ON vdis (sr_id);
CREATE INDEX vdis_of_content ON vdis (content_id);

CREATE TABLE intents (                  -- written before files are moved, deleted by the transaction that commits
    content_id TEXT PRIMARY KEY,        -- the new content
    sr_id TEXT NOT NULL,
    vdi_id TEXT NOT NULL,
    staged TEXT NOT NULL,               -- paths relative to the SR's directory
    target TEXT NOT NULL,
    old_content_id TEXT,
    old_file TEXT,
    aside TEXT,                         -- where the old content's file is kept meanwhile
    job_id TEXT,
    epoch INTEGER NOT NULL
) STRICT;

CREATE TABLE jobs (
    id TEXT PRIMARY KEY,                -- base 36, sorts by time
    kind TEXT NOT NULL,
    spec_version INTEGER NOT NULL,
    spec TEXT NOT NULL,                 -- JSON
    owner TEXT,
    parent TEXT,
    idempotency_key TEXT,
    attempt INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    node TEXT,
    claims TEXT NOT NULL,               -- JSON array
    state TEXT NOT NULL,
    reason TEXT,                        -- a stable code, when it ended badly or waits
    outcome TEXT,                       -- JSON: result or error, when it has ended
    created_ms INTEGER NOT NULL,
    started_ms INTEGER,
    updated_ms INTEGER NOT NULL,
    ended_ms INTEGER
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state);
CREATE INDEX jobs_by_end ON jobs (ended_ms);
CREATE INDEX jobs_by_key ON jobs (owner, idempotency_key) WHERE idempotency_key IS NOT NULL;
