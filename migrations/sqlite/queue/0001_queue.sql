-- The queue of embedded mode. Times are milliseconds since 1970.

-- One row per queue; every number only rises.
CREATE TABLE counters (
    queue    TEXT    NOT NULL PRIMARY KEY,
    place    INTEGER NOT NULL DEFAULT 0, -- the last place in line given
    turn     INTEGER NOT NULL DEFAULT 0, -- the last turn given to a tenant
    token    INTEGER NOT NULL DEFAULT 0, -- the last fencing token given
    finished INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Tenants that have jobs waiting or claimed. The one with the lowest turn is served next.
CREATE TABLE tenant (
    queue     TEXT    NOT NULL,
    name      TEXT    NOT NULL,
    turn      INTEGER NOT NULL,
    waiting   INTEGER NOT NULL DEFAULT 0 CHECK (waiting >= 0),
    in_flight INTEGER NOT NULL DEFAULT 0 CHECK (in_flight >= 0),
    PRIMARY KEY (queue, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX tenant_turn ON tenant (queue, turn) WHERE waiting > 0;

CREATE TABLE job (
    queue        TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    state        INTEGER NOT NULL CHECK (state IN (0, 1, 2)), -- waiting, delayed, claimed
    at_ms        INTEGER NOT NULL, -- waiting since, due, lease deadline
    place        INTEGER NOT NULL DEFAULT 0,
    tenant       TEXT    NOT NULL,
    priority     INTEGER NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL,
    token        INTEGER NOT NULL DEFAULT 0,
    cancelled    INTEGER NOT NULL DEFAULT 0,
    again        TEXT, -- a wish to run once more after this, as JSON
    traceparent  TEXT,
    enqueued_ms  INTEGER NOT NULL,
    payload      TEXT    NOT NULL,
    UNIQUE (queue, id)
) STRICT;
CREATE INDEX job_at ON job (queue, state, at_ms);
CREATE INDEX job_line ON job (queue, tenant, priority DESC, place) WHERE state = 0;

CREATE TABLE dead (
    queue        TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    died_ms      INTEGER NOT NULL,
    reason       TEXT    NOT NULL,
    tenant       TEXT    NOT NULL,
    priority     INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    traceparent  TEXT,
    payload      TEXT    NOT NULL,
    UNIQUE (queue, id)
) STRICT;
CREATE INDEX dead_age ON dead (queue, died_ms);

-- Ticks of schedules that somebody took.
CREATE TABLE tick (
    name       TEXT    NOT NULL,
    tick       INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (name, tick)
) STRICT, WITHOUT ROWID;
CREATE INDEX tick_age ON tick (expires_ms);

CREATE TABLE worker (
    id         TEXT    NOT NULL PRIMARY KEY,
    expires_ms INTEGER NOT NULL,
    info       TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
