-- What people did, by the minute and the room: written with the entries that say so, in one transaction. The twin of
-- MongoDB's collection of the same name (migrations/mongo/0003_activity.json).
CREATE TABLE activity (
    user_id  BLOB    NOT NULL,
    -- Minutes since 1970, UTC.
    minute   INTEGER NOT NULL,
    room     TEXT    NOT NULL,
    messages INTEGER NOT NULL,
    comments INTEGER NOT NULL,
    strokes  INTEGER NOT NULL,
    edits    INTEGER NOT NULL,
    runs     INTEGER NOT NULL,
    -- activity_of: a range of minutes of each person.
    PRIMARY KEY (user_id, minute, room)
) STRICT, WITHOUT ROWID;
-- activity_in: the newest minutes of each room.
CREATE INDEX activity_by_room ON activity (room, minute, user_id);
