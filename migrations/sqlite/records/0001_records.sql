-- People, rooms, roles, jobs. The Postgres twin is migrations/postgres/0001_records.sql: keep the two alike.
-- Times are RFC 3339 in UTC, whose text sorts as the times do; ids are the 16 bytes of the UUID.
--
-- Who made a room, is a member or owns a job is kept by value, without a foreign key to users: a person's row may go
-- (or, for anonymous people, never have been) while what they made stays.

CREATE TABLE users (
    id            BLOB PRIMARY KEY NOT NULL,
    kind          TEXT NOT NULL,
    username      TEXT NOT NULL,
    -- What two spellings of one name share. NULL for guests: their names bind nobody.
    username_key  TEXT,
    name          TEXT NOT NULL,
    email         TEXT,
    email_key     TEXT,
    avatar_url    TEXT,
    -- PHC string.
    password_hash TEXT,
    is_admin      INTEGER NOT NULL,
    created_at    TEXT NOT NULL,
    -- Both serve user_by_login and the look across (a user name that is another's e-mail address).
    CONSTRAINT users_username_key_unique UNIQUE (username_key),
    CONSTRAINT users_email_key_unique UNIQUE (email_key)
) STRICT;

CREATE TABLE rooms (
    id               TEXT PRIMARY KEY NOT NULL,
    name             TEXT NOT NULL,
    kind             TEXT NOT NULL,
    access           TEXT NOT NULL,
    listed           INTEGER NOT NULL,
    retention        TEXT NOT NULL,
    allows           TEXT NOT NULL,
    created_by       BLOB,
    creator_address  TEXT,
    project_id       BLOB,
    role_version     INTEGER NOT NULL,
    created_at       TEXT NOT NULL,
    last_activity_at TEXT NOT NULL
) STRICT;
-- list_rooms for All.
CREATE INDEX rooms_by_age ON rooms (created_at, id);
-- list_rooms for Listed, and the listed half of For(person).
CREATE INDEX rooms_listed_by_age ON rooms (created_at, id) WHERE listed;
-- count_rooms_of_address.
CREATE INDEX rooms_by_address ON rooms (creator_address, created_at) WHERE creator_address IS NOT NULL;

CREATE TABLE room_members (
    room_id TEXT NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
    user_id BLOB NOT NULL,
    role    TEXT NOT NULL,
    -- role, members.
    PRIMARY KEY (room_id, user_id)
) STRICT;
-- The own half of list_rooms for For(person).
CREATE INDEX room_members_by_user ON room_members (user_id);

-- Ids of deleted rooms, reserved for a while so that a late client does not find strangers in its old room.
CREATE TABLE deleted_rooms (
    id         TEXT PRIMARY KEY NOT NULL,
    deleted_at TEXT NOT NULL
) STRICT;
-- Forgetting reservations that have lapsed.
CREATE INDEX deleted_rooms_by_age ON deleted_rooms (deleted_at);

CREATE TABLE jobs (
    id          BLOB PRIMARY KEY NOT NULL,
    owner       BLOB NOT NULL,
    owner_name  TEXT NOT NULL,
    -- By value: a run outlives its room.
    room_id     TEXT,
    project_id  BLOB,
    priority    INTEGER NOT NULL,
    -- JSON.
    spec        TEXT NOT NULL,
    state       TEXT NOT NULL,
    attempts    INTEGER NOT NULL,
    traceparent TEXT,
    -- False: the queue was never confirmed to have it.
    queued      INTEGER NOT NULL,
    created_at  TEXT NOT NULL,
    started_at  TEXT,
    finished_at TEXT
) STRICT;
-- unqueued_jobs: holds only the few that wait.
CREATE INDEX jobs_outbox ON jobs (created_at, id) WHERE NOT queued;
-- list_jobs.
CREATE INDEX jobs_by_owner ON jobs (owner, id);
