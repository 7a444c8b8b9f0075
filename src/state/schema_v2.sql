-- Schema 2: what was answered to requests that carried an idempotency key.
CREATE TABLE idempotency (
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    address TEXT NOT NULL,              -- method and path
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,          -- SHA-256 of the parameters
    task_id TEXT,                       -- the job, once there is one
    object TEXT,                        -- "<collection>/<id>": if it exists, the request was done and the answer holds
    answered INTEGER NOT NULL DEFAULT 0, -- 0: at work, or the server died, or it ended in a way that may be tried again
    status INTEGER,                     -- the answer, or what it will be once the object exists
    headers TEXT,                       -- JSON array of [name, value]
    body BLOB,                          -- NULL beside a status: not kept
    answer_bytes INTEGER NOT NULL DEFAULT 0, -- of headers and body
    touched_ms INTEGER NOT NULL,        -- when it was begun, then when it was answered
    PRIMARY KEY (user_id, address, key)
) STRICT;
CREATE INDEX idempotency_by_age ON idempotency (touched_ms);
CREATE INDEX idempotency_of_user ON idempotency (user_id, answered, touched_ms, answer_bytes);
