-- Invitations into rooms; of a code only its SHA-256. The Postgres twin is migrations/postgres/0003_invites.sql.
CREATE TABLE invites (
    id         BLOB PRIMARY KEY NOT NULL,
    room_id    TEXT NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
    code_hash  BLOB NOT NULL,
    role       TEXT NOT NULL,
    created_by BLOB NOT NULL,
    created_at TEXT NOT NULL,
    expires_at TEXT,
    max_uses   INTEGER,
    uses       INTEGER NOT NULL,
    -- invite_by_code, accept_invite.
    CONSTRAINT invites_code_unique UNIQUE (code_hash)
) STRICT;
-- invites.
CREATE INDEX invites_by_room ON invites (room_id, id);
