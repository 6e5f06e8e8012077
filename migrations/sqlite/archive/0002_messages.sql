-- Messages folded: one row each, as edits, reactions and deletion left it. Written with the entries, in one transaction.
CREATE TABLE messages (
    room      TEXT    NOT NULL,
    id        BLOB    NOT NULL,
    seq       INTEGER NOT NULL,
    kind      TEXT    NOT NULL,
    -- The first message of the thread it answers in. NULL: it answers nothing.
    thread    BLOB,
    user_id   BLOB    NOT NULL,
    name      TEXT    NOT NULL,
    -- NULL: for everybody; else a JSON array of user ids.
    audience  TEXT,
    ts_ms     INTEGER NOT NULL,
    deleted   INTEGER NOT NULL,
    edited    INTEGER NOT NULL,
    reactions INTEGER NOT NULL,
    -- JSON.
    message   TEXT    NOT NULL,
    PRIMARY KEY (room, id)
) STRICT;
CREATE UNIQUE INDEX messages_by_place ON messages (room, seq);
CREATE INDEX messages_by_thread ON messages (room, thread, seq) WHERE thread IS NOT NULL;

-- The words by which a message is found, as they are now.
CREATE TABLE message_words (
    room TEXT    NOT NULL,
    word TEXT    NOT NULL,
    seq  INTEGER NOT NULL,
    PRIMARY KEY (room, word, seq)
) STRICT, WITHOUT ROWID;

-- The message whose words an entry holds beside the message itself (an edit): they go with it when it is deleted.
ALTER TABLE entries ADD COLUMN message BLOB;
CREATE INDEX entries_by_message ON entries (room, message) WHERE message IS NOT NULL;
