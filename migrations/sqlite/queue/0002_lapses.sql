-- Attempts that ended with their holder's silence.
ALTER TABLE job ADD COLUMN lapses INTEGER NOT NULL DEFAULT 0;

-- Jobs finished in each ten seconds since 1970, for as long as they count.
CREATE TABLE rate (
    queue    TEXT    NOT NULL,
    tens     INTEGER NOT NULL,
    finished INTEGER NOT NULL,
    PRIMARY KEY (queue, tens)
) STRICT, WITHOUT ROWID;
