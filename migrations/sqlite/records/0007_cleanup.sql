-- Runs of the cleanup: what was asked for, and what came of it. The Postgres twin is
-- migrations/postgres/0007_cleanup.sql: keep the two alike.

CREATE TABLE cleanup_runs (
    id          BLOB PRIMARY KEY NOT NULL,
    scope       TEXT NOT NULL,
    dry_run     INTEGER NOT NULL,
    state       TEXT NOT NULL,
    -- JSON: what was removed, by kind.
    counts      TEXT NOT NULL,
    error       TEXT,
    asked_at    TEXT NOT NULL,
    finished_at TEXT,
    next_at     TEXT
) STRICT;
-- Forgetting old runs.
CREATE INDEX cleanup_runs_by_age ON cleanup_runs (asked_at);
