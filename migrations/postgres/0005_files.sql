-- What is known of uploaded files; the bytes lie in the file store under `uploads/<id>`. The SQLite twin is
-- migrations/sqlite/records/0005_files.sql: keep the two alike.
--
-- Room and uploader are kept by value, without foreign keys: a row must outlive its room until the bytes are gone too.

CREATE TABLE files (
    id            UUID PRIMARY KEY,
    -- NULL: in no room yet.
    room_id       TEXT COLLATE "C",
    -- NULL: somebody anonymous.
    uploader      UUID,
    uploader_name TEXT NOT NULL,
    name          TEXT NOT NULL,
    content_type  TEXT NOT NULL,
    size          BIGINT NOT NULL,
    -- SHA-256 of the bytes as stored, hexadecimal.
    sha256        TEXT NOT NULL,
    created_at    TIMESTAMPTZ NOT NULL
);
-- files_of_room; ids are UUID v7, so their order is that of the uploads.
CREATE INDEX files_by_room ON files (room_id, id) WHERE room_id IS NOT NULL;
