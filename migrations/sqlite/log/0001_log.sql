-- The hot log of every loaded room. A room's row is its head; no row, no log.
CREATE TABLE rooms (
    key INTEGER PRIMARY KEY,
    room TEXT NOT NULL UNIQUE,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    archived INTEGER NOT NULL,
    trimmed INTEGER NOT NULL,
    role_version INTEGER NOT NULL,
    seeded_at_ms INTEGER NOT NULL,
    seeded_seq INTEGER NOT NULL
) STRICT;

-- Rooms that wait for the archive.
CREATE INDEX rooms_dirty ON rooms (room) WHERE seq > archived;

-- The tail: seq trimmed+1 to seq, without holes.
CREATE TABLE entries (
    room_key INTEGER NOT NULL REFERENCES rooms (key) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (room_key, seq)
) STRICT, WITHOUT ROWID;

-- What resends are recognised by. `reference` is "user client ref".
CREATE TABLE refs (
    room_key INTEGER NOT NULL REFERENCES rooms (key) ON DELETE CASCADE,
    reference TEXT NOT NULL,
    seq INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    PRIMARY KEY (room_key, reference)
) STRICT, WITHOUT ROWID;

CREATE INDEX refs_expiry ON refs (expires_at_ms);
