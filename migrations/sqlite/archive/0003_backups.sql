-- 1: entries were archived that no backup covers yet.
ALTER TABLE room_heads ADD COLUMN unbacked INTEGER NOT NULL DEFAULT 0;
CREATE INDEX room_heads_unbacked ON room_heads (room) WHERE unbacked = 1;

-- A room's state at one time. Ids are UUID v7: a room's backups lie in the order they were made.
CREATE TABLE backups (
    room  TEXT NOT NULL,
    id    BLOB NOT NULL,
    -- JSON of what a list shows.
    about TEXT NOT NULL,
    -- The packed state.
    state BLOB NOT NULL,
    PRIMARY KEY (room, id)
) STRICT;
