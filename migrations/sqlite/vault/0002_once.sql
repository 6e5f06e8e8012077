-- Idempotency keys: requests in flight and the answers they got. Times are milliseconds since 1970.
CREATE TABLE once (
    owner    BLOB    NOT NULL, -- SHA-256
    key      BLOB    NOT NULL, -- SHA-256
    request  BLOB    NOT NULL, -- who holds it
    answer   TEXT,             -- NULL while in flight
    until_ms INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;
-- Forgetting those that are over.
CREATE INDEX once_by_end ON once (until_ms);
