-- People who deleted their accounts. The Postgres twin is migrations/postgres/0006_deleted_people.sql: keep the two
-- alike.

CREATE TABLE deleted_users (
    -- Primary key: deleted_users.
    id         BLOB PRIMARY KEY NOT NULL,
    deleted_at TEXT NOT NULL
) STRICT;
