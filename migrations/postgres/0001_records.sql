-- People, rooms, roles, jobs. The SQLite twin is migrations/sqlite/records/0001_records.sql: keep the two alike.
--
-- Who made a room, is a member or owns a job is kept by value, without a foreign key to users: a person's row may go
-- (or, for anonymous people, never have been) while what they made stays.

CREATE TABLE users (
    id            UUID PRIMARY KEY,
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
    is_admin      BOOLEAN NOT NULL,
    created_at    TIMESTAMPTZ NOT NULL,
    -- Both serve user_by_login and the look across (a user name that is another's e-mail address).
    CONSTRAINT users_username_key_unique UNIQUE (username_key),
    CONSTRAINT users_email_key_unique UNIQUE (email_key)
);

CREATE TABLE rooms (
    -- Bytewise order, as in SQLite: lists break ties of created_at by it.
    id               TEXT COLLATE "C" PRIMARY KEY,
    name             TEXT NOT NULL,
    kind             TEXT NOT NULL,
    access           TEXT NOT NULL,
    listed           BOOLEAN NOT NULL,
    retention        TEXT NOT NULL,
    allows           JSONB NOT NULL,
    created_by       UUID,
    creator_address  TEXT,
    project_id       UUID,
    role_version     BIGINT NOT NULL,
    created_at       TIMESTAMPTZ NOT NULL,
    last_activity_at TIMESTAMPTZ NOT NULL
);
-- list_rooms for All.
CREATE INDEX rooms_by_age ON rooms (created_at, id);
-- list_rooms for Listed, and the listed half of For(person).
CREATE INDEX rooms_listed_by_age ON rooms (created_at, id) WHERE listed;
-- count_rooms_of_address.
CREATE INDEX rooms_by_address ON rooms (creator_address, created_at) WHERE creator_address IS NOT NULL;

CREATE TABLE room_members (
    room_id TEXT COLLATE "C" NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
    user_id UUID NOT NULL,
    role    TEXT NOT NULL,
    -- role, members.
    PRIMARY KEY (room_id, user_id)
);
-- The own half of list_rooms for For(person).
CREATE INDEX room_members_by_user ON room_members (user_id);

-- Ids of deleted rooms, reserved for a while so that a late client does not find strangers in its old room.
CREATE TABLE deleted_rooms (
    id         TEXT COLLATE "C" PRIMARY KEY,
    deleted_at TIMESTAMPTZ NOT NULL
);
-- Forgetting reservations that have lapsed.
CREATE INDEX deleted_rooms_by_age ON deleted_rooms (deleted_at);

CREATE TABLE jobs (
    id          UUID PRIMARY KEY,
    owner       UUID NOT NULL,
    owner_name  TEXT NOT NULL,
    -- By value: a run outlives its room.
    room_id     TEXT COLLATE "C",
    project_id  UUID,
    priority    SMALLINT NOT NULL,
    -- JSON, kept as text: JSONB refuses U+0000, which a source file or its input may hold.
    spec        TEXT NOT NULL,
    state       TEXT NOT NULL,
    attempts    BIGINT NOT NULL,
    traceparent TEXT,
    -- False: the queue was never confirmed to have it.
    queued      BOOLEAN NOT NULL,
    created_at  TIMESTAMPTZ NOT NULL,
    started_at  TIMESTAMPTZ,
    finished_at TIMESTAMPTZ
);
-- unqueued_jobs: holds only the few that wait.
CREATE INDEX jobs_outbox ON jobs (created_at, id) WHERE NOT queued;
-- list_jobs.
CREATE INDEX jobs_by_owner ON jobs (owner, id);
