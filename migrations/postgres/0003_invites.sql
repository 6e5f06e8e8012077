-- Invitations into rooms; of a code only its SHA-256. The SQLite twin is migrations/sqlite/records/0003_invites.sql.
CREATE TABLE invites (
    id         UUID PRIMARY KEY,
    room_id    TEXT COLLATE "C" NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
    code_hash  BYTEA NOT NULL,
    role       TEXT NOT NULL,
    created_by UUID NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ,
    max_uses   BIGINT,
    uses       BIGINT NOT NULL,
    -- invite_by_code, accept_invite.
    CONSTRAINT invites_code_unique UNIQUE (code_hash)
);
-- invites.
CREATE INDEX invites_by_room ON invites (room_id, id);
