-- What is known of uploaded files; the bytes lie in the file store under `uploads/<id>`. The Postgres twin is
-- migrations/postgres/0005_files.sql: keep the two alike.
--
-- Room and uploader are kept by value, without foreign keys: a row must outlive its room until the bytes are gone too.

CREATE TABLE files (
    id            BLOB PRIMARY KEY NOT NULL,
    -- NULL: in no room yet.
    room_id       TEXT,
    -- NULL: somebody anonymous.
    uploader      BLOB,
    uploader_name TEXT NOT NULL,
    name          TEXT NOT NULL,
    content_type  TEXT NOT NULL,
    size          INTEGER NOT NULL,
    -- SHA-256 of the bytes as stored, hexadecimal.
    sha256        TEXT NOT NULL,
    created_at    TEXT NOT NULL
) STRICT;
-- files_of_room; ids are UUID v7, so their order is that of the uploads.
CREATE INDEX files_by_room ON files (room_id, id) WHERE room_id IS NOT NULL;
