-- How far each room is archived, and in which epoch. No row: never opened.
CREATE TABLE room_heads (
    room   TEXT PRIMARY KEY,
    epoch  INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    -- 1: the epoch's log stood once.
    opened INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Every entry for ever. `record` is the record's JSON, as the log stores it; the other columns are what is asked for by.
CREATE TABLE entries (
    room      TEXT    NOT NULL,
    seq       INTEGER NOT NULL,
    kind      TEXT    NOT NULL,
    ts_ms     INTEGER NOT NULL,
    user_id   BLOB    NOT NULL,
    client_id TEXT    NOT NULL,
    ref       TEXT,
    -- NULL: for everybody; else a JSON array of user ids.
    audience  TEXT,
    record    TEXT    NOT NULL
) STRICT;
CREATE UNIQUE INDEX entries_by_place ON entries (room, seq);
CREATE INDEX entries_by_kind ON entries (room, kind, seq);
-- A ref is stored once per room, user and client.
CREATE UNIQUE INDEX entries_by_ref ON entries (room, user_id, client_id, ref) WHERE ref IS NOT NULL;

-- The newest folded state of each room, as JSON.
CREATE TABLE checkpoints (
    room  TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    seq   INTEGER NOT NULL,
    state TEXT    NOT NULL
) STRICT;

CREATE TABLE job_results (
    job           BLOB PRIMARY KEY,
    result        TEXT    NOT NULL,
    expires_at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX job_results_by_expiry ON job_results (expires_at_ms);
