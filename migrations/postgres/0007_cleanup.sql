-- Runs of the cleanup: what was asked for, and what came of it. The SQLite twin is
-- migrations/sqlite/records/0007_cleanup.sql: keep the two alike.

CREATE TABLE cleanup_runs (
    id          UUID PRIMARY KEY,
    scope       TEXT NOT NULL,
    dry_run     BOOLEAN NOT NULL,
    state       TEXT NOT NULL,
    -- JSON: what was removed, by kind.
    counts      TEXT NOT NULL,
    error       TEXT,
    asked_at    TIMESTAMPTZ NOT NULL,
    finished_at TIMESTAMPTZ,
    next_at     TIMESTAMPTZ
);
-- Forgetting old runs.
CREATE INDEX cleanup_runs_by_age ON cleanup_runs (asked_at);
