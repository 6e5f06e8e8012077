-- Who was in which session, from when until when. The SQLite twin is migrations/sqlite/records/0014_room_visits.sql: keep
-- the two alike.

CREATE TABLE room_visits (
    room_id   TEXT COLLATE "C" NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
    client_id TEXT COLLATE "C" NOT NULL,
    joined_at TIMESTAMPTZ NOT NULL,
    user_id   UUID NOT NULL,
    name      TEXT NOT NULL,
    color     TEXT NOT NULL,
    simulated BOOLEAN NOT NULL,
    -- NULL: is there still.
    left_at   TIMESTAMPTZ,
    reason    TEXT,
    -- note_visits.
    PRIMARY KEY (room_id, client_id, joined_at)
);
-- visits (who came), and which are the oldest.
CREATE INDEX room_visits_by_beginning ON room_visits (room_id, joined_at, client_id);
-- visits (who went).
CREATE INDEX room_visits_by_end ON room_visits (room_id, left_at, client_id) WHERE left_at IS NOT NULL;
-- open_visits.
CREATE INDEX room_visits_open ON room_visits (room_id, client_id, joined_at) WHERE left_at IS NULL;
-- delete_user.
CREATE INDEX room_visits_by_user ON room_visits (user_id);
