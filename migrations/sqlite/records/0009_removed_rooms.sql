-- Rooms that the cleanup removed, with what it takes to bring them back: the row and its members as they were; the
-- entries lie in the archive's backups and the files in `files`, both under this row's id. The Postgres twin is
-- migrations/postgres/0009_removed_rooms.sql: keep the two alike.

CREATE TABLE removed_rooms (
    -- UUID v7: newest last.
    id         BLOB PRIMARY KEY NOT NULL,
    room_id    TEXT NOT NULL,
    -- removing: the room's row is gone; kept: its content is kept aside; removed: the room's own is gone; restoring: it
    -- comes back.
    state      TEXT NOT NULL,
    -- JSON: the room's row and who was a member.
    snapshot   TEXT NOT NULL,
    -- Entries and files kept.
    entries    INTEGER NOT NULL,
    files      INTEGER NOT NULL,
    -- The id under which it comes back.
    target     TEXT,
    -- Who works at it, and until when nobody else may.
    worker     BLOB,
    claimed_until TEXT,
    removed_at TEXT NOT NULL,
    expires_at TEXT NOT NULL
) STRICT;
-- removal_of, unfinished_removals: one at a time for each room.
CREATE UNIQUE INDEX removed_rooms_under_way ON removed_rooms (room_id) WHERE state IN ('removing', 'kept');
-- reserve_room_id: what is coming back under this id.
CREATE INDEX removed_rooms_by_target ON removed_rooms (target) WHERE target IS NOT NULL;
-- expired_removals.
CREATE INDEX removed_rooms_by_expiry ON removed_rooms (expires_at);
